"""What `smartbatch up` prints once all is ready: its address, its models and a command to try each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from smartbatch.deploy.models.entry import ModelEntry
from smartbatch.shared.settings import Settings


def lines(settings: Settings, entries: Sequence[ModelEntry], *, grpc: bool, embedded: bool) -> Iterator[str | Text]:
    """Yield the lines. `embedded`: the broker is."""
    url = base_url(settings.host, settings.port)
    if len(entries) == 1:
        [entry] = entries
        yield Text.assemble(
            "ready     ", (url, "bold"), "  model ", (entry.id, "bold"), f", {_count(entry.workers, 'worker')}"
        )
    else:
        workers = _count(sum(entry.workers for entry in entries), "worker")
        yield Text.assemble("ready     ", (url, "bold"), f"  {len(entries)} models, {workers}")
    if grpc:
        yield f"gRPC      {settings.host}:{settings.grpc_port}"
    for entry in entries:
        query = ""
        if len(entries) > 1:
            yield Text.assemble("model     ", (entry.id, "bold"), f", {_count(entry.workers, 'worker')}")
            query = f"?model={_query_of(entry, entries)}"
        yield Text.assemble(
            "try       ",
            (_example_request(settings, entry, f"'{url}/predict{query}'" if query else f"{url}/predict"), "green"),
        )
    if embedded:
        yield Text.assemble("join      ", (f"export REDIS_URL={settings.redis_url}", "green"), " for more workers")
    yield "stop      Ctrl-C drains, a second Ctrl-C stops at once"


def base_url(host: str, port: int) -> str:
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}"


def _query_of(entry: ModelEntry, entries: Sequence[ModelEntry]) -> str:
    """Return what a request names to get this version: without a number the routing table decides between several."""
    name, version = entry.settings.model, entry.settings.model_version
    several = sum(each.settings.model == name for each in entries) > 1
    return f"{name}@{version}" if several else name


def _example_request(settings: Settings, entry: ModelEntry, url: str) -> str:
    """Return a curl command that works with a model."""
    path = entry.settings.model_path
    if settings.api_keys or settings.api_keys_file:
        url = f'-H "Authorization: Bearer $SMARTBATCH_API_KEY" {url}'
    if path.startswith("simulated"):
        return f"curl -d hello {url}"
    if path == "minilm":
        return f"curl -H 'Content-Type: text/plain' -d 'a cat' {url}"
    if ":" in path or path.endswith(".pt2"):
        return f"""curl -d '{{"data": …}}' {url}"""
    return f"curl --data-binary @examples/cat.jpg {url}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
