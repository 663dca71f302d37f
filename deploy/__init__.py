"""The command line, the local launcher, container images, and the configuration of monitoring."""
