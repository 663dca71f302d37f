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

from smartbatch.deploy.options import read_for_operator, setting_options
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.process import tasks
from smartbatch.shared.settings import Settings


@click.command("top")
@setting_options("REDIS_URL")
@click.option("--name", help="Show only this model, or one of its partitions, like M:3. Default: all models.")
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Seconds between updates."
)
@click.option("--once", is_flag=True, help="Print one update and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per update.")
def command(name: str | None, interval: float, once: bool, as_json: bool, **options: str | None) -> None:
    """Show live rates, latencies, queue depths, batches and workers. Quit with q or Ctrl-C.

    Reads only Redis, so this works with any deployment. An update is a few small commands, whatever the load.
    """
    try:
        asyncio.run(_top(read_for_operator(options), name, interval, once, as_json))
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(0)


async def _top(settings: Settings, name: str | None, interval: float, once: bool, as_json: bool) -> None:
    from smartbatch.deploy.lookup import open_connections
    from smartbatch.deploy.tables import console
    from smartbatch.deploy.top_frame import frame

    screen = console()
    async with open_connections(settings) as connections:
        updates = _updates(connections, settings, name, interval)
        if once:
            await anext(updates)  # rates need two
            models, error = await anext(updates)
            if error:
                raise BrokerUnavailable(error)
            click.echo(_json(models)) if as_json else screen.print(frame(models))
        elif as_json or not screen.is_terminal:
            async for models, error in updates:
                click.echo(_json(models)) if as_json else screen.print(frame(models, error))
        else:
            await _live(screen, updates)


async def _live(screen, updates: AsyncIterator) -> None:
    from rich.live import Live

    from smartbatch.deploy.top_frame import frame

    async def draw() -> None:
        async for models, error in updates:
            live.update(frame(models, error), refresh=True)

    with Live(console=screen, screen=True, auto_refresh=False) as live, _quit_key() as quit_pressed:
        drawing = asyncio.create_task(draw())
        try:
            await asyncio.wait({drawing, quit_pressed}, return_when=asyncio.FIRST_COMPLETED)
            if drawing.done():
                drawing.result()  # raises its exception
        finally:  # Ctrl-C cancels only this task
            await tasks.end([drawing])


async def _updates(connections: Connections, settings: Settings, name: str | None, interval: float) -> AsyncIterator:
    """Yield (models, error) every `interval` seconds. `error` is empty unless they are out of date."""
    from smartbatch.deploy.lookup import models_named, snapshot_of
    from smartbatch.gateway.monitoring.model_view import ModelView, describe
    from smartbatch.gateway.monitoring.window_stats import StatsWindow

    windows: defaultdict[str, StatsWindow] = defaultdict(StatsWindow)
    models: dict[str, ModelView] = {}
    while True:
        began_at, error_text = time.monotonic(), ""
        try:
            found = await models_named(connections, settings, name)
            seen = [(each, await snapshot_of(connections, each)) for each in found]
            models = {m.name: ModelView(describe(s), windows[m.name].add(s), m.info) for m, s in seen}
        except BrokerUnavailable as error:
            error_text = str(error)
        yield models, error_text
        await asyncio.sleep(max(0.0, began_at + interval - time.monotonic()))


def _json(models) -> str:
    return msgspec.json.encode({"at_ms": int(time.time() * 1000), "models": models}).decode()


@contextmanager
def _quit_key() -> Iterator[asyncio.Future[None]]:
    """Return a future that is done when q is pressed; without a terminal it never is."""
    loop = asyncio.get_running_loop()
    quit_pressed: asyncio.Future[None] = loop.create_future()
    if not sys.stdin.isatty():
        yield quit_pressed
        return
    import termios
    import tty

    def pressed() -> None:
        typed = os.read(sys.stdin.fileno(), 64).lower()
        if (b"q" in typed or not typed) and not quit_pressed.done():
            quit_pressed.set_result(None)

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)  # unlike raw mode, Ctrl-C still interrupts
    loop.add_reader(sys.stdin, pressed)
    try:
        yield quit_pressed
    finally:
        loop.remove_reader(sys.stdin)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
