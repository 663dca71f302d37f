"""`smartbatch key`"""

from __future__ import annotations

from pathlib import Path

import click

from smartbatch.shared.errors import SmartBatchError


@click.group("key")
def command() -> None:
    """API keys. The gateway's file (API_KEYS_FILE) holds their digests; a key itself is shown once and kept nowhere."""


@command.command("new")
@click.argument("name")
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="Append it to this file of keys.")
@click.option("--role", type=click.Choice(["client", "monitor", "admin"]), default="client", show_default=True)
@click.option("--rate", type=click.FloatRange(0), default=0.0, help="Requests a second; 0: any number.")
@click.option("--burst", type=click.FloatRange(0), default=0.0, help="Requests at once; 0: as many as --rate.")
@click.option("--quota", type=click.IntRange(0), default=0, help="Requests a day (UTC); 0: any number.")
@click.option("--model", "models", multiple=True, help="A model it may ask (may be given again); none: all.")
def new(name: str, file: Path | None, **limits) -> None:
    """Make a key: 32 random bytes. NAME is what logs and metrics call it.

    A client predicts, a monitor reads /metrics and /stats, an admin does both. To revoke a key, delete its lines: the
    gateways look at the file every second.
    """
    from smartbatch.gateway.auth import keys

    secret = keys.new_key()
    key = keys.Key(sha256=keys.digest_of(secret.encode()).hex(), **limits)
    table = keys.table_of(name, key)
    if file is None:
        click.echo(f"# {name}'s key, shown only now:  {secret}\n# for API_KEYS_FILE:\n{table}", nl=False)
        return
    try:
        before = file.read_bytes() if file.exists() else b""
        after = before + (b"\n" if before else b"") + table.encode()
        keys.from_file(after, str(file))  # not a file that the gateways would refuse
        file.write_bytes(after)
    except OSError as error:
        raise SmartBatchError(f"{file}: {error.strerror}") from None
    click.echo(secret)
