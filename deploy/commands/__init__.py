"""The subcommands of `smartbatch`, one file each. Heavy imports are made when a command runs, so `--help` is quick and
a gateway never loads torch."""
