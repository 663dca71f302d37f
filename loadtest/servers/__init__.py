"""Servers and programs that SmartBatch is compared with, each started by `python -m loadtest.servers.NAME`."""
