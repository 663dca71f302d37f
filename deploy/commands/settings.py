"""`smartbatch settings`"""

from __future__ import annotations

import click
from rich.text import Text

from smartbatch.deploy.tables import console, table
from smartbatch.shared.settings import describe, from_environment, public


@click.command("settings")
@click.option("--markdown", is_flag=True, help="Print a Markdown table without current values.")
def command(markdown: bool) -> None:
    """List all settings with their values, defaults and meanings. Secrets are masked."""
    if markdown:
        click.echo("| variable | default | meaning |\n|---|---|---|")
        for name, _, default, meaning in describe():
            click.echo(f"| `{name}` | {f'`{default}`' if default != '' else ''} | {meaning} |".replace("  ", " "))
        return
    values = public(from_environment())
    rows = table("variable", "value", "default", "meaning")
    for name, _, default, meaning in describe():
        value = values[name.lower()]
        shown = Text(str(value), "bold" if value != default else "")
        rows.add_row(name, shown, str(default), meaning)
    console().print(rows)
