"""`smartbatch key`"""

from __future__ import annotations

from pathlib import Path

import click

from smartbatch.deploy.tables import console, table
from smartbatch.shared.errors import SmartBatchError

_key_file = click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="API_KEYS_FILE",
    show_envvar=True,
    required=True,
    help="The key file.",
)


@click.group("key")
def command() -> None:
    """Create, list and revoke API keys.

    API_KEYS_FILE stores only digests of the keys. A key is shown once, when it is created.
    """


@command.command("new")
@click.argument("name")
@click.option(
    "--file", type=click.Path(dir_okay=False, path_type=Path), help="Append the key's digest to this key file."
)
@click.option(
    "--role",
    type=click.Choice(["client", "monitor", "admin"]),
    default="client",
    show_default=True,
    help="What the key permits: a client runs models, a monitor reads /metrics and /stats, an admin does both.",
)
@click.option("--rate", type=click.FloatRange(0), default=0.0, help="Requests per second; 0 = unlimited.")
@click.option("--burst", type=click.FloatRange(0), default=0.0, help="Requests at once; 0 = the value of --rate.")
@click.option("--quota", type=click.IntRange(0), default=0, help="Requests per day (UTC); 0 = unlimited.")
@click.option(
    "--model", "models", multiple=True, help="A model that the key may use; can be repeated. Default: all models."
)
def new(name: str, file: Path | None, **limits) -> None:
    """Create a key of 32 random bytes. NAME identifies it in logs and metrics.

    Gateways check the file for changes every second.
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
        if name in keys.from_file(before, str(file)):
            raise SmartBatchError(
                f"{file} has a key named {name} already; choose another name, or revoke that key first "
                f"(smartbatch key revoke {name} --file {file})"
            )
        after = before + (b"\n" if before else b"") + table.encode()
        keys.from_file(after, str(file))  # raises if gateways would reject the file
        file.write_bytes(after)
    except OSError as error:
        raise SmartBatchError(f"{file}: {error.strerror}") from None
    click.echo(secret)


@command.command("list")
@_key_file
def list_(file: Path) -> None:
    """List the keys of a key file: their names and limits."""
    from smartbatch.gateway.auth import keys

    rows = table("name", "role", "rate", "burst", "quota", "models")
    found = keys.from_file(_read(file), str(file))
    for name, key in found.items():
        rows.add_row(name, key.role, *_numbers(key.rate, key.burst, key.quota), ", ".join(key.models) or "all")
    console().print(rows if found else f"{file} holds no key")


@command.command("revoke")
@click.argument("name")
@_key_file
def revoke(name: str, file: Path) -> None:
    """Delete a key from a key file. Gateways reject it within a second or two."""
    from smartbatch.gateway.auth import keys

    before = _read(file)
    found = keys.from_file(before, str(file))
    if name not in found:
        raise SmartBatchError(f"{file} has no key named {name!r:.70}; it has {', '.join(found) or 'none'}")
    after = keys.without(before.decode(), name).encode()
    del found[name]
    if keys.from_file(after, str(file)) != found:
        raise SmartBatchError(f"{file}: can't find the lines of {name}; delete them with an editor")
    try:
        file.write_bytes(after)
    except OSError as error:
        raise SmartBatchError(f"{file}: {error.strerror}") from None
    click.echo(f"revoked {name}")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SmartBatchError(f"{file}: {error.strerror}") from None


def _numbers(*values: float) -> list[str]:
    return [f"{value:g}" if value else "" for value in values]
