"""The subcommands of `smartbatch`, one file each. What they need is imported when they run, so `--help` is quick
and a gateway never loads torch."""
