"""`smartbatch up`"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
import msgspec

from smartbatch.deploy.options import broker_given, read_for_server, setting_options


@click.command("up")
@setting_options("PORT", "HOST")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes per model.")
@click.option("--grpc", is_flag=True, help="Also start a gRPC gateway on GRPC_PORT.")
@click.option(
    "--cluster",
    type=click.IntRange(3, 16),
    metavar="PRIMARIES",
    help="Start an embedded cluster of this many primaries and as many replicas as the broker.",
)
@click.option(
    "--sentinel", is_flag=True, help="Start an embedded primary with two replicas and three Sentinels as the broker."
)
@click.option(
    "--model",
    "words",
    multiple=True,
    metavar="[NAME[@VERSION]=]PATH",
    help="Model to serve, as MODEL_PATH. Repeatable: requests that name no model get the first one.",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file with a [[models]] table for each model to serve.",
)
@click.option(
    "--models",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Model repository (Triton's layout): DIR/name/version/model.pt2, model.py or config.json.",
)
@click.option(
    "--model-commands",
    type=click.Choice(["any", "repository", "none"]),
    default="any",
    show_default=True,
    help="What `smartbatch model load` may load: any path (which is code), or only what is in --models.",
)
@setting_options(
    "GRPC_PORT",
    "MODEL_NAME",
    "MODEL_VERSION",
    "MODEL_WEIGHTS",
    "DEVICE",
    "DTYPE",
    "OPTIMIZE",
    "MAX_BATCH_SIZE",
    "MAX_WAIT_TIME",
    "API_KEYS_FILE",
    "REDIS_URL",
)
def command(
    workers: int,
    grpc: bool,
    cluster: int | None,
    sentinel: bool,
    words: tuple[str, ...],
    config: Path | None,
    folder: Path | None,
    model_commands: str,
    **options: str | None,
) -> None:
    """Start a broker, a gateway and workers on this machine. Ctrl-C drains them; a second Ctrl-C stops them at once.

    Several models: --model resnet18 --model iris=examples/tabular.py:Iris --model iris@2=iris-v2.pt2, or a file
    (--config), or a repository (--models), or all of them; docs/versions.md describes both. `smartbatch model load` and
    `unload` change what is served.

    With REDIS_URL (or --redis-url) that broker is used; without it an embedded Valkey is started. All other settings
    come from the environment: MAX_QUEUE=64 LOG_FORMAT=json smartbatch up
    """
    from smartbatch.deploy.launcher.launcher import Launcher
    from smartbatch.deploy.models.command_line import models_of
    from smartbatch.deploy.models.repository import Repository
    from smartbatch.gateway.auth.key_store import KeyStore
    from smartbatch.gateway.server import bind, bind_grpc, bind_management
    from smartbatch.shared.telemetry import tracing

    if sum((bool(cluster), sentinel, broker_given(options))) > 1:
        raise click.UsageError("--cluster, --sentinel and REDIS_URL (--redis-url) exclude each other")
    settings = read_for_server({**options, "model_path": words[0] if len(words) == 1 else None}, "up")
    repository = Repository(folder, settings, workers) if folder else None
    entries = models_of(settings, words, config, repository, workers, options)
    tracing.check()  # fail before anything is started
    with bind(settings) as sock:  # fail on a port in use before anything is started
        settings = msgspec.structs.replace(settings, port=sock.getsockname()[1])  # PORT=0: the port that was chosen
        if management := bind_management(settings):
            with management:
                settings = msgspec.structs.replace(settings, management_port=management.getsockname()[1])
        if grpc:
            with bind_grpc(settings) as rpc:
                settings = msgspec.structs.replace(settings, grpc_port=rpc.getsockname()[1])
    if KeyStore.configured(settings):
        KeyStore(settings)  # fail on unreadable keys before anything is started
    launcher = Launcher(
        settings,
        entries,
        broker_given(options),
        repository=repository,
        model_commands=model_commands,
        grpc=grpc,
        cluster=cluster or 0,
        sentinel=sentinel,
    )
    sys.exit(asyncio.run(launcher.run()))
