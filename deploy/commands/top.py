"""`smartbatch top`"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import click
import msgspec

from smartbatch.deploy.options import read, setting_options
from smartbatch.shared.broker.connection.client import Client
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.process import tasks
from smartbatch.shared.settings import Settings


@click.command("top")
@setting_options("REDIS_URL")
@click.option("--name", help="Only this model; by default all that are known.")
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Seconds between two looks."
)
@click.option("--once", is_flag=True, help="Look twice, print what there is, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each look, for machines.")
def command(name: str | None, interval: float, once: bool, as_json: bool, **options: str | None) -> None:
    """Show, live, what the whole system is doing: rates, latencies, depth, batches, workers. q or Ctrl-C leaves.

    Reads only Redis, so it works next to any deployment; each look is a few small commands, whatever waits there.
    """
    try:
        asyncio.run(_top(read(options), name, interval, once, as_json))
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(0)


async def _top(settings: Settings, name: str | None, interval: float, once: bool, as_json: bool) -> None:
    from smartbatch.deploy.lookup import open_client
    from smartbatch.deploy.tables import console
    from smartbatch.deploy.top_frame import frame

    screen = console()
    async with open_client(settings) as client:
        looks = _looks(client, name, interval)
        if once:
            await anext(looks)  # rates need two
            models, trouble = await anext(looks)
            if trouble:
                raise BrokerUnavailable(trouble)
            click.echo(_json(models)) if as_json else screen.print(frame(models))
        elif as_json or not screen.is_terminal:
            async for models, trouble in looks:
                click.echo(_json(models)) if as_json else screen.print(frame(models, trouble))
        else:
            await _live(screen, looks)


async def _live(screen, looks: AsyncIterator) -> None:
    from rich.live import Live

    from smartbatch.deploy.top_frame import frame

    async def draw() -> None:
        async for models, trouble in looks:
            live.update(frame(models, trouble), refresh=True)

    with Live(console=screen, screen=True, auto_refresh=False) as live, _until_q() as left:
        drawing = asyncio.create_task(draw())
        try:
            await asyncio.wait({drawing, left}, return_when=asyncio.FIRST_COMPLETED)
            if drawing.done():
                drawing.result()  # raises what ended it
        finally:  # Ctrl-C cancels this; asyncio would cancel the other only once, and redis-py may swallow that
            await tasks.end([drawing])


async def _looks(client: Client, name: str | None, interval: float) -> AsyncIterator:
    """Yield (models, trouble) every `interval` seconds: the last that could be seen, and why it is no newer."""
    from smartbatch.gateway.monitoring.model_view import ModelView, describe
    from smartbatch.gateway.monitoring.window_stats import Looks
    from smartbatch.shared.broker.admin import registry

    looks: defaultdict[str, Looks] = defaultdict(Looks)
    models: dict[str, ModelView] = {}
    while True:
        began_at, trouble = time.monotonic(), ""
        try:
            infos = await registry.models(client)
            names = [name] if name else sorted(infos)
            seen = {each: await registry.snapshot(client, each) for each in names}
            models = {each: ModelView(describe(s), looks[each].add(s), infos.get(each)) for each, s in seen.items()}
        except BrokerUnavailable as error:
            trouble = str(error)
        yield models, trouble
        await asyncio.sleep(max(0.0, began_at + interval - time.monotonic()))


def _json(models) -> str:
    return msgspec.json.encode({"at_ms": int(time.time() * 1000), "models": models}).decode()


@contextmanager
def _until_q() -> Iterator[asyncio.Future[None]]:
    """A future that is done when q is pressed; never, where there is no keyboard."""
    loop = asyncio.get_running_loop()
    left: asyncio.Future[None] = loop.create_future()
    if not sys.stdin.isatty():
        yield left
        return
    import termios
    import tty

    def pressed() -> None:
        typed = os.read(sys.stdin.fileno(), 64).lower()
        if (b"q" in typed or not typed) and not left.done():
            left.set_result(None)

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)  # Ctrl-C still interrupts
    loop.add_reader(sys.stdin, pressed)
    try:
        yield left
    finally:
        loop.remove_reader(sys.stdin)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
