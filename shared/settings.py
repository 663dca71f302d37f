"""All settings: read from the environment once, validated, and immutable afterwards.

The declaration of a setting is the source of its default, its validation, the command line's help and the docs.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl, urlencode

import msgspec
from msgspec import Meta

from smartbatch.shared.errors import SettingsError
from smartbatch.shared.keys import MAX_VERSION, check_model_name, model_id
from smartbatch.shared.redis_url import PASSWORD_FILE, URL_OPTIONS, InvalidUrl, expected, parse_url

NEAR = 0.87  # difflib's ratio of MAX_BATCHSIZE is 0.96; that of WINDOWID, which terminals set, is 0.857


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of all processes; each process reads only those that concern it. Durations are in seconds."""

    # the model
    model_path: Annotated[
        str,
        Meta(
            min_length=1,
            description="Model to serve: a torchvision name, `efficientnet_lite0`, `minilm`, `hf:DIR`, "
            "`file.py:Class`, `module:Class`, a `.pt2` file, or `simulated:base_ms=4,row_ms=0.2`",
        ),
    ] = "efficientnet_lite0"
    model_name: Annotated[
        str, Meta(description="Name of the model in requests; by default derived from MODEL_PATH")
    ] = ""
    model_version: Annotated[
        int,
        Meta(
            ge=1,
            le=MAX_VERSION,
            description="Version of the model; each has a queue and workers of its own, see docs/versions.md",
        ),
    ] = 1
    model_weights: Annotated[
        str, Meta(min_length=1, description="`default`, `random`, or the path of a weight file (a state dict)")
    ] = "default"
    device: Annotated[str, Meta(description="Device of the model: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`")] = "auto"
    device_share: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="Take turns on the device with other workers of this user on this host: `auto` with those of "
            "other models, except on a CPU; `on` with all, on a CPU too; `off` with none; see docs/device-sharing.md"
        ),
    ] = "auto"
    device_weight: Annotated[
        int,
        Meta(ge=1, le=1000, description="Share of the device's time, relative to that of the others (DEVICE_SHARE)"),
    ] = 1
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], Meta(description="Data type of the model's computation")
    ] = "float32"

    optimize: Annotated[
        Literal["auto", "none"],
        Meta(
            description="`auto` runs the fastest variant of the network whose outputs match eager PyTorch; "
            "see docs/optimization.md"
        ),
    ] = "auto"

    # batching
    max_batch_size: Annotated[int, Meta(ge=1, le=65536, description="Maximum rows per batch")] = 32
    max_wait_time: Annotated[
        float,
        Meta(
            ge=0,
            le=60,
            description="Window: maximum wait of a batch's oldest entry for others, counted from its admission",
        ),
    ] = 0.01
    window: Annotated[
        Literal["adaptive", "fixed"],
        Meta(
            description="`adaptive`: the window ends early once no further request is expected; `fixed`: it never does"
        ),
    ] = "adaptive"
    max_batch_bytes: Annotated[int, Meta(ge=1024, description="Maximum payload bytes per batch")] = 256 * 1024 * 1024
    max_batch_tokens: Annotated[
        int, Meta(ge=0, description="Maximum rows times the size of the largest row per batch; 0: memory decides")
    ] = 0
    pool: Annotated[
        int,
        Meta(
            ge=0,
            le=65536,
            description="Maximum claimed rows from which batches are cut; 0: up to four times MAX_BATCH_SIZE, but "
            "about four seconds' work at most",
        ),
    ] = 0

    # the broker
    redis_url: Annotated[
        str,
        Meta(
            description="URL of the broker: `redis://`, `rediss://`, `unix://`, `redis+sentinel://h1,h2/name` or "
            "`redis+cluster://h1,h2`, with user and password if needed"
        ),
    ] = "redis://127.0.0.1:6379/0"
    redis_password_file: Annotated[
        str, Meta(description="File with the password of REDIS_URL's user; read at each connection")
    ] = ""
    partitions: Annotated[
        int,
        Meta(ge=0, le=1000, description="Streams per model; 0: one per primary of a cluster, one elsewhere"),
    ] = 0
    partition_patience: Annotated[
        float,
        Meta(
            ge=0.1,
            le=60,
            description="How long requests wait for a partition whose broker is away before they go to another",
        ),
    ] = 1.0
    reply_ttl: Annotated[float, Meta(ge=1, le=86400, description="How long a reply that nobody reads is kept")] = 60.0
    max_deliveries: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="Workers that an entry may end before it becomes a dead letter; it runs isolated after the "
            "first, so 1 means 2",
        ),
    ] = 3

    # the gateway
    host: Annotated[str, Meta(description="Address that the gateway listens on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port that the gateway listens on")] = 8000
    grpc_port: Annotated[
        int, Meta(ge=0, le=65535, description="Port that a gRPC gateway listens on (`smartbatch gateway --grpc`)")
    ] = 8001
    gateway_processes: Annotated[int, Meta(ge=1, le=256, description="Number of gateway processes that share PORT")] = 1
    management_port: Annotated[
        int,
        Meta(
            ge=-1,
            le=65535,
            description="Separate port for /metrics, /stats and /readyz; 0 = any free port, -1 = PORT",
        ),
    ] = -1
    management_host: Annotated[str, Meta(description="Address of the management port")] = "127.0.0.1"
    api_keys_file: Annotated[
        str, Meta(description="TOML file of API keys (`smartbatch key new`), reloaded when it changes")
    ] = ""
    api_keys: Annotated[
        str, Meta(description="Additional API keys, `name:sha256,name:sha256`; without any keys none is required")
    ] = ""
    request_timeout: Annotated[
        float, Meta(gt=0, le=86400, description="Maximum time to answer a request; after it the client gets a 504")
    ] = 30.0
    max_queue: Annotated[int, Meta(ge=1, description="Maximum waiting requests per model; more are rejected")] = 1024
    max_queue_bytes: Annotated[
        int, Meta(ge=1024, description="Maximum payload bytes in flight per model; more are rejected")
    ] = 512 * 1024 * 1024
    max_body_bytes: Annotated[int, Meta(ge=1, description="Maximum size of a request body")] = 16 * 1024 * 1024
    max_request_rows: Annotated[
        int,
        Meta(ge=1, le=65536, description="Maximum rows of a request; more than MAX_BATCH_SIZE run in several batches"),
    ] = 4096
    max_receiving_bytes: Annotated[
        int,
        Meta(ge=1, description="Maximum bytes of bodies that a gateway process receives at once; more are rejected"),
    ] = 256 * 1024 * 1024
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            description="Maximum connections of a gateway process; beyond it idle ones are closed or new ones rejected",
        ),
    ] = 4096

    # the worker
    decode_threads: Annotated[
        int, Meta(ge=0, le=256, description="Threads that decode inputs; 0 = one per core, up to 4")
    ] = 0
    torch_threads: Annotated[int, Meta(ge=0, le=1024, description="CPU threads of PyTorch; 0 = PyTorch's default")] = 0
    metrics_port: Annotated[
        int,
        Meta(
            ge=-1,
            le=65535,
            description="Port of a worker's /metrics (`smartbatch up`: the first worker's); 0 = any, -1 = none",
        ),
    ] = 0
    metrics_host: Annotated[str, Meta(description="Address of a worker's /metrics")] = "127.0.0.1"
    max_image_pixels: Annotated[
        int, Meta(ge=1, description="Maximum pixels of a request's images; more are rejected before decoding")
    ] = 50_000_000
    debug_errors: Annotated[
        bool,
        Meta(
            description="Show clients the text and source line of an exception in the model's code; "
            "`smartbatch up` turns it on if only this machine can connect"
        ),
    ] = False
    replace: Annotated[
        bool,
        Meta(description="Replace a different model that is being served under the same name"),
    ] = False
    stall_timeout: Annotated[
        float, Meta(gt=0, le=86400, description="A worker that makes no progress for this long exits")
    ] = 30.0

    # all
    grace_time: Annotated[
        float, Meta(ge=0, le=86400, description="How long a process may take to finish its requests at shutdown")
    ] = 30.0
    log_format: Annotated[Literal["human", "json"], Meta(description="Format of log lines")] = "human"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Minimum log level")] = "info"

    @property
    def model(self) -> str:
        """Name under which the model is served."""
        return _model(self.model_name, self.model_path)

    @property
    def model_id(self) -> str:
        """The model's name, and @version unless that is 1."""
        return model_id(self.model, self.model_version)

    @property
    def broker_url(self) -> str:
        """REDIS_URL, with the password file as an option of the URL."""
        if not self.redis_password_file:
            return self.redis_url
        mark = "&" if "?" in self.redis_url else "?"
        return f"{self.redis_url}{mark}{urlencode({PASSWORD_FILE: self.redis_password_file})}"


@functools.cache  # called for every request
def _model(name: str, path: str) -> str:
    return check_model_name(name or default_model_name(path))


def default_model_name(model_path: str) -> str:
    """Return the default name of a model.

    `resnet18` → resnet18, `pkg.mod:Class` and `dir/mod.py:Class` → Class, `dir/net.pt2` → net,
    `hf:dir/name` → name, `simulated:base_ms=4` → simulated.
    """
    if model_path.startswith("simulated"):
        return "simulated"
    if model_path.startswith("hf:"):
        model_path = model_path.removeprefix("hf:").partition("@")[0]
    name = model_path.rpartition(":")[2] if ":" in model_path else PurePath(model_path).name.removesuffix(".pt2")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name) or "model"


def from_environment(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read and validate the settings. `overrides` (from the command line) take precedence unless they are None.

    Raises SettingsError, which names the variable, the expected and the actual value.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for field in Settings.__struct_fields__:
        raw = overrides.get(field)
        if raw is None:
            raw = environ.get(field.upper())
        if raw is not None and raw != "":
            values[field] = raw
    for field, raw in values.items():
        try:
            msgspec.convert({field: raw}, Settings, strict=False)
        except msgspec.ValidationError:
            raise SettingsError(f"{field.upper()}: expected {_expected(field)}, got {raw!r}") from None
    settings = msgspec.convert(values, Settings, strict=False)
    _check_redis_url(settings.redis_url)
    if settings.redis_password_file and parse_url(settings.redis_url).password:
        raise SettingsError("REDIS_PASSWORD_FILE: REDIS_URL has a password too; set only one of them")
    return settings


def _expected(field: str) -> str:
    """Describe the valid values of a setting, with their unit."""
    kind, meta = get_args(get_type_hints(Settings, include_extras=True)[field])[:2]
    if get_origin(kind) is Literal:
        *others, last = get_args(kind)
        return f"{', '.join(others)} or {last}"
    accepted = {
        bool: "true or false",
        float: "a number of seconds",
        int: "a whole number" + (" of bytes" if field.endswith("_bytes") else ""),
        str: "a text",
    }[kind]
    low = f" above {meta.gt} and up" if meta.gt is not None else "" if meta.ge is None else f" from {meta.ge}"
    return accepted + low + ("" if meta.le is None else f" to {meta.le}")


def near_misses(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the variables that are probably misspelt settings, each with the setting that it resembles."""
    known = [field.upper() for field in Settings.__struct_fields__]
    unknown = sorted(name for name in environ if name == name.upper() and name not in known)
    found = [(name, difflib.get_close_matches(name, known, n=1, cutoff=NEAR)) for name in unknown]
    return [(name, near[0]) for name, near in found if near]


def describe() -> list[tuple[str, str, Any, str]]:
    """Return (variable, type, default, meaning) of every setting, in declaration order."""
    hints = get_type_hints(Settings, include_extras=True)
    defaults = dict(zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True))
    rows = []
    for field in Settings.__struct_fields__:
        kind, meta = get_args(hints[field])[:2]
        name = " | ".join(get_args(kind)) if get_origin(kind) is Literal else kind.__name__
        rows.append((field.upper(), name, defaults[field], meta.description))
    return rows


def public(settings: Settings) -> dict[str, Any]:
    """Return the settings for printing, with passwords and key digests masked."""
    shown = msgspec.to_builtins(settings)
    shown["redis_url"] = mask_url(settings.redis_url)
    shown["api_keys"] = re.sub(r"(:\s*)[^,]*", r"\1***", settings.api_keys)
    return shown


def mask_url(url: str) -> str:
    """Mask all passwords in a URL, even if it can't be parsed."""
    scheme, mark, rest = url.partition("://")
    user_info, at, host = rest.rpartition("@")
    user, colon, _ = user_info.partition(":")
    shown = f"{scheme}{mark}{user}{colon}{'***' if colon else ''}{at}{host}"
    return re.sub(r"(?i)([?&]\w*password=)[^&#]*", r"\1***", shown)


def _check_redis_url(url: str) -> None:
    try:
        parse_url(url)
    except ValueError as error:
        reason = str(error) if isinstance(error, InvalidUrl) else f"expected {expected(url)}"
        raise SettingsError(f"REDIS_URL: {reason}, got {mask_url(url)!r}") from None
    for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True):
        if name not in URL_OPTIONS:
            known = ", ".join(sorted(URL_OPTIONS))
            raise SettingsError(f"REDIS_URL: unknown option {name[:40]!r}; known options are {known}")
