"""The command line: `smartbatch`."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from smartbatch.deploy import startup_error
from smartbatch.shared import __version__
from smartbatch.shared.errors import SmartBatchError, StartupError
from smartbatch.shared.telemetry import logs

COMMANDS = {
    "up": "Start a broker, a gateway and workers on this machine",
    "gateway": "Start a gateway",
    "worker": "Start a worker",
    "check": "Try a model of your own without a server",
    "predict": "Send files to a server and print its responses",
    "key": "Create, list and revoke API keys",
    "top": "Show live statistics of all models",
    "queue": "List, inspect and cancel queued requests",
    "dead": "List, inspect, requeue and delete dead letters",
    "limits": "Show or change the batch limits of running workers",
    "route": "Show or change which version of a model gets how many requests",
    "promote": "Move requests to a version step by step, and back if it is worse",
    "rollback": "Undo the last change of a model's weights",
    "models": "List served and available models",
    "model": "Load, unload and list models of a running `smartbatch up`",
    "settings": "List all settings",
}


_SERVERS = ("up", "gateway", "worker")


@contextlib.contextmanager
def _usage_errors_logged() -> Iterator[None]:
    """Make a usage error of a server whose log is JSON a StartupError, which is a line of that log."""
    try:
        yield
    except click.UsageError as error:
        # From the words as they are, since they can't be parsed.
        server = next((word for word in sys.argv if word in COMMANDS), "")
        json = os.environ.get("LOG_FORMAT") == "json" or re.search(r"--log-format[= ]json\b", " ".join(sys.argv))
        if server not in _SERVERS or not json:
            raise
        logs.set_up("json", "info", server)
        raise StartupError(f"{error.format_message().rstrip('.')}; see smartbatch {server} --help") from None


class _LazyGroup(click.Group):
    """Imports the module of a subcommand only when it is needed."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _usage_errors_logged():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _usage_errors_logged():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"smartbatch.deploy.commands.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="smartbatch")
def cli() -> None:
    """SmartBatch: an inference server for PyTorch models.

    Every setting is an environment variable (`smartbatch settings` lists them); an option overrides it.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line with `arguments`, by default those of the process.

    A SmartBatchError is printed as one line, with exit code 2; only a bug shows a traceback. The line is JSON if the
    process's log is.
    """
    try:
        cli(arguments, prog_name="smartbatch", standalone_mode=True)
    except SmartBatchError as error:
        if startup_error.report(error):
            pass
        elif logs.is_json():
            logging.getLogger(__name__).critical("%s", error)
        else:
            click.secho(f"smartbatch: {error}", fg="red", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
