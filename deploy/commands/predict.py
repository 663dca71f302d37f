"""`smartbatch predict`"""

from __future__ import annotations

import http.client
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from smartbatch.deploy.tables import console
from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.settings import from_environment


@click.command("predict")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--url", help="URL of the server, or its host:port.  [default: 127.0.0.1, on PORT or 8000]")
@click.option("--model", help="Name of the model, if the server has several.")
@click.option("--top-k", type=click.IntRange(0, 1000), help="Number of classes per row; 0 = the model's raw outputs.")
@click.option(
    "--api-key",
    envvar="SMARTBATCH_API_KEY",
    show_envvar=True,
    help="API key, if the server requires one. Prefer the environment variable: other users can see options.",
)
@click.option("--timeout", default=60.0, show_default=True, help="Timeout of each request in seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print the responses as JSON.")
def command(files, url, model, top_k, api_key, timeout, as_json) -> None:
    """Send FILES (images, .npy, JSON) to a server and print its responses."""
    query = {k: v for k, v in (("model", model), ("top_k", top_k)) if v is not None}
    target = f"{_base_url(url)}/predict" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    failed = 0
    for file in files:
        try:
            answer = _post(target, file.read_bytes(), timeout, api_key)
        except SmartBatchError as error:
            failed += 1
            click.secho(f"{file}: {error}", fg="red", err=True)
            continue
        click.echo(json.dumps(answer, indent=2)) if as_json else _show(file, answer)
    sys.exit(1 if failed else 0)


def _base_url(url: str | None) -> str:
    url = url or f"127.0.0.1:{from_environment().port}"
    return (url if "://" in url else f"http://{url}").rstrip("/")


def _post(target: str, body: bytes, timeout: float, api_key: str | None) -> dict:
    if urllib.parse.urlsplit(target).scheme not in ("http", "https"):
        raise SmartBatchError(f"--url: expected http://, https:// or host:port, got {target!r}")
    request = urllib.request.Request(target, body, {"content-type": "application/octet-stream"})
    if api_key:
        request.add_unredirected_header("authorization", f"Bearer {api_key.strip()}")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        detail = error.read().decode(errors="replace")
        try:
            detail = json.loads(detail)["detail"]
        except (ValueError, KeyError, TypeError):
            detail = detail[:300]
        raise SmartBatchError(f"{error.code} {error.reason}: {detail}") from None
    except OSError as error:
        raise SmartBatchError(f"can't reach {target}: {getattr(error, 'reason', error)}") from None
    except (http.client.HTTPException, ValueError) as error:
        raise SmartBatchError(
            f"{target} is not a SmartBatch server: {type(error).__name__}: {error}".rstrip()
        ) from None


def _show(file: Path, answer: dict) -> None:
    screen = console()
    batch, ms = answer["batch"], answer["timing_ms"]
    screen.print(
        Text.assemble((str(file), "bold"), f"  {ms['total']:.1f} ms, in a batch of {batch['rows']} ({batch['closed']})")
    )
    if "predictions" not in answer:
        screen.print_json(data=answer.get("outputs", answer.get("values")))
        return
    for row in answer["predictions"]:
        table = Table(box=None, show_header=False, padding=(0, 2))
        for score in row:
            table.add_row(f"{score['probability']:7.2%}", score["label"], Text(str(score["class_id"]), "dim"))
        screen.print(table)
