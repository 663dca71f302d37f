"""Which models `smartbatch up` serves: from the command line, a file or a repository."""
