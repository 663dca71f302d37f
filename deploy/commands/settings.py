"""`smartbatch settings`"""

from __future__ import annotations

import click
from rich.padding import Padding
from rich.text import Text

from smartbatch.deploy.tables import console
from smartbatch.shared.settings import describe, from_environment, public


@click.command("settings")
def command() -> None:
    """List all settings: variable, value here, default where it differs, meaning. Secrets are masked."""
    values = public(from_environment())
    screen = console()
    for name, _, default, meaning in describe():
        value = values[name.lower()]
        changed = value != default
        text = Text.assemble((f"{name}={value}", "bold" if changed else ""))
        screen.print(text + (Text(f"  default: {default}", "dim") if changed else Text()), soft_wrap=True)
        screen.print(Padding(Text(meaning), (0, 0, 0, 4), expand=False))
