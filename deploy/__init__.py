"""Ways of running it: the command line, the local launcher, Docker."""
