"""How SmartBatch is run: the command line, the local launcher, Docker, monitoring."""
