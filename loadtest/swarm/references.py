"""What each body is answered when nothing else is running: asked once, before the load, by each Locust process."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from typing import Any, NamedTuple
from urllib.parse import quote

from loadtest.traffic import answers
from loadtest.traffic.bodies import Body

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0
REFUSED = (404, 406, 413, 415, 422)  # this model doesn't take such a body


class NothingToSend(Exception):
    """The server takes none of the bodies, or can't be asked."""


class Reference(NamedTuple):
    body: Body
    result: Any


def target(host: str, model: str) -> str:
    return f"{host.rstrip('/')}/predict" + (f"?model={quote(model)}" if model else "")


def ask(
    url: str, chosen: dict[str, tuple[int, list[Body]]], headers: dict[str, str]
) -> dict[str, tuple[int, list[Reference]]]:
    """Return weight and references by kind; a kind that the model refuses is left out, with a line that says why.

    Raises NothingToSend.
    """
    taken: dict[str, tuple[int, list[Reference]]] = {}
    why = "nothing was chosen"
    for kind, (weight, bodies) in chosen.items():
        try:
            taken[kind] = (weight, [Reference(body, _ask(url, body, headers)) for body in bodies])
        except urllib.error.HTTPError as error:
            why = f"{error.code}: {_detail(error)}"
            if error.code not in REFUSED:
                raise NothingToSend(f"{url} answered {kind} with {why}") from None
            log.warning("%s is left out, the server answered %s", kind, why)
        except answers.Unreadable as error:
            raise NothingToSend(f"{url} is no SmartBatch server: {error}") from None
        except OSError as error:
            raise NothingToSend(f"can't reach {url}: {getattr(error, 'reason', error)}") from None
    if not taken:
        raise NothingToSend(f"the server takes none of {', '.join(chosen)}; the last was answered {why}")
    _tell_apart(taken)
    return taken


def _ask(url: str, body: Body, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(url, body.content, {"content-type": body.content_type, **headers})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        return answers.result(response.read())


def _tell_apart(taken: dict[str, tuple[int, list[Reference]]]) -> None:
    """Say so if the check can't see answers that were mixed up, as with random weights, which see the same in all."""
    for kind, (_, references) in taken.items():
        if len(references) > 1 and all(
            answers.difference(references[0].result, other.result) <= 1 for other in references[1:]
        ):
            log.warning("every %s gets the same answer, so mixed up ones would not be noticed", kind)


def _detail(error: urllib.error.HTTPError) -> str:
    said = error.read()[:1000].decode(errors="replace")
    try:
        return json.loads(said)["detail"]
    except (ValueError, KeyError, TypeError):
        return said[:200]
