"""The local launcher: the processes of `smartbatch up`, and commands that load and unload models in it."""
