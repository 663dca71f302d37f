"""The names of all Redis keys.

    smartbatch:{M}:requests       stream, group "workers"   the entries
    smartbatch:{M}:inflight       hash                      request_id -> entry_id|bytes|rows, and sums
    smartbatch:{M}:body:<id>      string, TTL               an external payload
    smartbatch:{M}:reply:<id>     string, TTL               the reply to one request
    smartbatch:{M}:inbox:<gw>     list, TTL                 `id|size` per reply of one gateway; small replies inline
    smartbatch:{M}:fill_lock      string, TTL               the worker that may wait to fill its batch
    smartbatch:{M}:wakeup         list, 0 or 1 token        wakes an idle worker if entries wait and nobody fills
    smartbatch:{M}:leases         zset                      worker -> lease end (ms, Redis clock)
    smartbatch:{M}:worker:<id>    hash, TTL                 status of a worker
    smartbatch:{M}:gateway:<id>   hash, TTL                 status of a gateway process
    smartbatch:{M}:gateways       set, TTL                  IDs of gateway processes
    smartbatch:{M}:dead           stream                    dead letters
    smartbatch:{M}:limits         hash                      batch limits, changed while workers run
    smartbatch:{M}:served         string, TTL               the model that reserved the name, as JSON
    smartbatch:models             hash                      model ID -> JSON description (no hash tag)
    smartbatch:{routes}:tables    hash                      model -> JSON routing table
    smartbatch:{routes}:history:<model>     stream          changes of its routing table
    smartbatch:{launchers}:ids              set, TTL        IDs of launchers (`smartbatch up`)
    smartbatch:{launchers}:launcher:<id>    string, TTL     what a launcher runs, as JSON
    smartbatch:{launchers}:commands:<id>    list, TTL       commands for one launcher, as JSON
    smartbatch:{launchers}:events:<id>      list, TTL       progress of one command, as JSON
    smartbatch:access:{usage}:buckets       hash, TTL       API key -> tokens|ms, its rate limit's bucket
    smartbatch:access:{usage}:counts:<day>  hash, TTL       API key -> requests of that day
    smartbatch:access:{usage}:seen:<id>     string, TTL     last report of a gateway process

M is the model's ID: its name, and @version unless that is 1. Each version has keys of its own. The braces make it the
hash tag, so that all keys of one script are in the same cluster slot. Further partitions have keys of their own too,
with tags like M:3; `served` is only in partition 0.
"""

from __future__ import annotations

import binascii
import functools
import re

from smartbatch.shared.errors import UnknownModel

GROUP = "workers"
MODELS = "smartbatch:models"
BUCKETS = "smartbatch:access:{usage}:buckets"
ROUTES = "smartbatch:{routes}:tables"
LAUNCHERS = "smartbatch:{launchers}:ids"

SLOTS = 16384  # of a cluster

MODEL_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_PARTITION = re.compile(r"[1-9][0-9]{0,4}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
MAX_VERSION = 999_999_999


def check_model_name(name: str) -> str:
    """Return `name` if it may be part of a key; raise UnknownModel otherwise."""
    if not MODEL_NAME.fullmatch(name):
        raise UnknownModel(f"a model name must be 1 to 128 characters of A-Z a-z 0-9 . _ -, got {name[:140]!r}")
    return name


def model_id(name: str, version: int = 1) -> str:
    """Return what identifies one version of a model: `name@version`, or the name alone for version 1."""
    return name if version == 1 else f"{name}@{version}"


@functools.lru_cache(4096)  # gateways split the same IDs twice a second
def split_model_id(text: str) -> tuple[str, int]:
    """Return name and version of a model ID. Raises UnknownModel."""
    name, at, version = text.partition("@")
    return check_model_name(name), parse_version(version) if at else 1


def check_model_id(text: str) -> str:
    """Return the model ID if it may be part of a key, `m@1` as `m`; raise UnknownModel otherwise."""
    return model_id(*split_model_id(text))


def parse_version(text: str) -> int:
    """Return the version of a model. Raises UnknownModel."""
    if not _VERSION.fullmatch(text):
        raise UnknownModel(f"a version must be a whole number from 1 to {MAX_VERSION}, got {text[:40]!r}")
    return int(text)


def hash_tag(key: str) -> str:
    """Return the part of a key that decides its slot: the first {…} that is not empty, or else the whole key."""
    _, brace, rest = key.partition("{")
    tag, brace_end, _ = rest.partition("}")
    return tag if brace and brace_end and tag else key


def slot(key: str) -> int:
    """Return the slot of a key in a cluster."""
    return binascii.crc_hqx(hash_tag(key).encode(), 0) % SLOTS


def counts(day: str) -> str:
    return f"smartbatch:access:{{usage}}:counts:{day}"


def seen(gateway_id: str) -> str:
    return f"smartbatch:access:{{usage}}:seen:{gateway_id}"


def route_history(model: str) -> str:
    return f"smartbatch:{{routes}}:history:{model}"


def launcher(launcher_id: str) -> str:
    return f"smartbatch:{{launchers}}:launcher:{launcher_id}"


def launcher_commands(launcher_id: str) -> str:
    return f"smartbatch:{{launchers}}:commands:{launcher_id}"


def launcher_events(command_id: str) -> str:
    return f"smartbatch:{{launchers}}:events:{command_id}"


def partition_tag(model: str, partition: int) -> str:
    """Return the hash tag of a model's partition: the model's ID alone for partition 0."""
    return f"{model}:{partition}" if partition else model


class Keys:
    """The keys of one partition of a model. `tag` is the model's ID for partition 0, and like M:3 for others."""

    def __init__(self, tag: str) -> None:
        model, colon, number = tag.partition(":")
        if colon and not _PARTITION.fullmatch(number):
            raise UnknownModel(f"a partition is a number from 1 to 99999, got {number[:40]!r}")
        self.model = check_model_id(model)
        self.partition = int(number or 0)
        self.tag = partition_tag(self.model, self.partition)
        tag = f"smartbatch:{{{self.tag}}}:"
        self.requests = tag + "requests"
        self.inflight = tag + "inflight"
        self.fill_lock = tag + "fill_lock"
        self.wakeup = tag + "wakeup"
        self.leases = tag + "leases"
        self.dead = tag + "dead"
        self.limits = tag + "limits"
        self.served = tag + "served"
        self.gateways = tag + "gateways"
        self._body = tag + "body:"
        self._reply = tag + "reply:"
        self._inbox = tag + "inbox:"
        self._worker = tag + "worker:"
        self._gateway = tag + "gateway:"

    def body(self, request_id: str) -> str:
        return self._body + request_id

    def reply(self, request_id: str) -> str:
        return self._reply + request_id

    def inbox(self, gateway_id: str) -> str:
        return self._inbox + gateway_id

    def worker(self, worker_id: str) -> str:
        return self._worker + worker_id

    def gateway(self, gateway_id: str) -> str:
        return self._gateway + gateway_id
