"""What each body is answered when nothing else is running: asked once, before the load, by each Locust process."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple
from urllib.parse import quote

from loadtest.traffic import answers
from loadtest.traffic.asking import Refused, alone
from loadtest.traffic.bodies import Body

log = logging.getLogger(__name__)

NOT_TAKEN = (413, 415, 422)  # this model doesn't take such a body

Chosen = dict[str, tuple[int, list[Body]]]
"""Weight and bodies by kind."""


class Reference(NamedTuple):
    body: Body
    result: Any


Taken = dict[str, tuple[int, list[Reference]]]


def target(host: str, model: str) -> str:
    return f"{host.rstrip('/')}/predict" + (f"?model={quote(model)}" if model else "")


def ask(url: str, chosen: Chosen, headers: dict[str, str]) -> Taken:
    """Return a reference for each body; a kind that the model doesn't take is left out, with a line that says why.

    Raises Refused if there is nothing left to send, or the server can't be asked.
    """
    taken: Taken = {}
    refused = Refused("nothing was chosen")
    for kind, (weight, bodies) in chosen.items():
        try:
            results = alone(url, bodies, headers)
        except Refused as error:
            refused = error
            if error.status not in NOT_TAKEN:
                raise
            log.warning("%s is left out: %s", kind, error)
        else:
            taken[kind] = (weight, [Reference(body, results[body.name]) for body in bodies])
            if len(bodies) > 1 and _all_alike(list(results.values())):
                log.warning("every %s gets the same answer, so mixed up ones would not be noticed", kind)
    if not taken:
        raise refused
    return taken


def _all_alike(results: list[Any]) -> bool:
    return all(answers.difference(results[0], other) <= 1 for other in results[1:])
