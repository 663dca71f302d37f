"""`smartbatch settings`"""

from __future__ import annotations

import click
from rich.text import Text

from smartbatch.deploy.tables import console, table
from smartbatch.shared.settings import describe, from_environment, public


@click.command("settings")
def command() -> None:
    """List all settings: variable, value here, default, meaning. Secrets are masked."""
    values = public(from_environment())
    rows = table("variable", "value", "default", "meaning")
    for name, _, default, meaning in describe():
        value = values[name.lower()]
        shown = Text(str(value), "bold" if value != default else "")
        rows.add_row(name, shown, str(default), meaning)
    console().print(rows)
