"""`smartbatch key`"""

from __future__ import annotations

from pathlib import Path

import click

from smartbatch.shared.errors import SmartBatchError


@click.group("key")
def command() -> None:
    """Create API keys.

    API_KEYS_FILE stores only digests of the keys. A key is shown once, when it is created.
    """


@command.command("new")
@click.argument("name")
@click.option(
    "--file", type=click.Path(dir_okay=False, path_type=Path), help="Append the key's digest to this key file."
)
@click.option(
    "--role", type=click.Choice(["client", "monitor", "admin"]), default="client", show_default=True, help="Role."
)
@click.option("--rate", type=click.FloatRange(0), default=0.0, help="Requests per second; 0 = unlimited.")
@click.option("--burst", type=click.FloatRange(0), default=0.0, help="Requests at once; 0 = the value of --rate.")
@click.option("--quota", type=click.IntRange(0), default=0, help="Requests per day (UTC); 0 = unlimited.")
@click.option(
    "--model", "models", multiple=True, help="A model that the key may use; can be repeated. Default: all models."
)
def new(name: str, file: Path | None, **limits) -> None:
    """Create a key of 32 random bytes. NAME identifies it in logs and metrics.

    A client runs models, a monitor reads /metrics and /stats, an admin does both. To revoke a key, delete its lines
    from the file; gateways check the file for changes every second.
    """
    from smartbatch.gateway.auth import keys

    secret = keys.new_key()
    key = keys.Key(sha256=keys.digest_of(secret.encode()).hex(), **limits)
    table = keys.to_toml(name, key)
    if file is None:
        click.echo(f"# key of {name}, shown only once:  {secret}\n# add to API_KEYS_FILE:\n{table}", nl=False)
        return
    try:
        before = file.read_bytes() if file.exists() else b""
        after = before + (b"\n" if before else b"") + table.encode()
        keys.from_file(after, str(file))  # raises if gateways would reject the file
        file.write_bytes(after)
    except OSError as error:
        raise SmartBatchError(f"{file}: {error.strerror}") from None
    click.echo(secret)
