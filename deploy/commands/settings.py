"""`smartbatch settings`"""

from __future__ import annotations

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from shared.settings import describe, from_environment, public


@click.command("settings")
@click.option("--markdown", is_flag=True, help="Print the table of the documentation.")
def command(markdown: bool) -> None:
    """List all settings: variable, value here, default, meaning. Secrets are masked."""
    if markdown:
        click.echo("| variable | default | meaning |\n|---|---|---|")
        for name, _, default, meaning in describe():
            click.echo(f"| `{name}` | {f'`{default}`' if default != '' else ''} | {meaning} |".replace("  ", " "))
        return
    values = public(from_environment())
    columns = [Column(name, overflow="fold") for name in ("variable", "value", "default", "meaning")]
    table = Table(*columns, box=None, header_style="bold")
    for name, _, default, meaning in describe():
        value = values[name.lower()]
        shown = escape(str(value))
        table.add_row(name, f"[bold]{shown}[/]" if value != default else shown, str(default), meaning)
    Console().print(table)
