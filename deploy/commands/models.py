"""`smartbatch models`"""

from __future__ import annotations

import asyncio
from contextlib import closing

import click
from rich.console import Console

from smartbatch.deploy.lookup import models_named, snapshot_of
from smartbatch.deploy.options import read_for_operator, setting_options
from smartbatch.deploy.tables import console, table
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.model_info import InputSpec, ModelInfo
from smartbatch.shared.settings import Settings


@click.command("models")
@setting_options("REDIS_URL")
@click.option("--all", "everything", is_flag=True, help="Also list all torchvision classifiers.")
def command(everything: bool, **options: str | None) -> None:
    """List the models that are served and the values that MODEL_PATH accepts."""
    screen = console()
    try:
        asyncio.run(_served(screen, read_for_operator(options)))
    except BrokerUnavailable:
        screen.print("can't list served models: the broker is unavailable (REDIS_URL)", style="dim")
    from smartbatch.worker.models import listing

    available = table("MODEL_PATH", "description", title="available models")
    entries = listing()
    shown = entries if everything else [entry for entry in entries if not entry[1].startswith("torchvision")]
    for path, description in shown:
        available.add_row(path, description)
    if len(shown) < len(entries):
        available.add_row(f"… and {len(entries) - len(shown)} more", "torchvision image classifiers (--all)")
    screen.print(available)


async def _served(screen: Console, settings: Settings) -> None:
    with closing(Connections(settings.broker_url)) as connections:
        models = await models_named(connections, settings, None)
        snapshots = {model.name: await snapshot_of(connections, model) for model in models}
    served = table(
        "name", "MODEL_PATH", "inputs", "row", "ready workers", "variant", "fingerprint", title="served models"
    )
    for name, info, _ in models:
        assert info is not None
        takes = "; ".join(_named(spec, info, ", ".join(spec.kinds)) for spec in info.inputs or (info.input,))
        row = "; ".join(_named(spec, info, _row(spec)) for spec in info.inputs or (info.input,))
        ready = snapshots[name].ready_workers
        variants = {snapshots[name].workers[worker_id].get("variant", "none") for worker_id in ready}
        served.add_row(name, info.path, takes, row, str(len(ready)), ", ".join(sorted(variants)), info.fingerprint)
    screen.print(served)


def _named(spec: InputSpec, info: ModelInfo, text: str) -> str:
    return f"{spec.name}: {text}" if info.inputs else text


def _row(spec: InputSpec) -> str:
    return f"{spec.dtype or ''} {list(spec.shape) if spec.shape else ''}".strip() or "any"
