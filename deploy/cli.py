"""The command line: `smartbatch`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from smartbatch.deploy import startup_error
from smartbatch.shared import __version__
from smartbatch.shared.errors import SmartBatchError

COMMANDS = {
    "up": "Run everything on this machine: broker, gateway, workers",
    "gateway": "Run a gateway",
    "worker": "Run a worker",
    "predict": "Send files to a running server and show its answers",
    "key": "Make an API key",
    "top": "Show live what the whole system does, from Redis",
    "queue": "Show what waits and runs, from Redis; take it back",
    "dead": "Look at dead letters, run them again, drop them",
    "limits": "Change how workers batch while they serve",
    "models": "List what can be served, and what is being served",
    "settings": "List all settings",
}


class _Lazy(click.Group):
    """Imports a subcommand's file only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"smartbatch.deploy.commands.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="smartbatch")
def cli() -> None:
    """SmartBatch: an inference server for PyTorch models.

    Every setting is an environment variable (`smartbatch settings` lists them); options win over it.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line with these arguments, by default the process's own.

    Errors made on purpose are one line and exit code 2; only a bug shows a traceback.
    """
    try:
        cli(arguments, prog_name="smartbatch", standalone_mode=True)
    except SmartBatchError as error:
        if not startup_error.tell(str(error)):
            click.secho(f"smartbatch: {error}", fg="red", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
