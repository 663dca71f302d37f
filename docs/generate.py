"""Write the reference pages that are made from the code: settings.md, cli.md, errors.md, http.md.

Run `make generated` after every change to a setting, an option, an error or an endpoint; tests/test_readme.py checks
that the pages are up to date.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from smartbatch.deploy.cli import COMMANDS, cli
from smartbatch.gateway.core.problems import status_of
from smartbatch.gateway.web.openapi.build import document
from smartbatch.shared import errors
from smartbatch.shared.settings import Settings, describe

FOLDER = Path(__file__).parent
NEVER_RAISED = (errors.SmartBatchError, errors.LimitReached)
NOTE = "<!-- generated from the code by `make generated` -->"


def pages() -> dict[str, str]:
    """Return the text of every generated page by its file's name."""
    made = {"settings.md": settings(), "cli.md": commands(), "errors.md": error_codes(), "http.md": http()}
    return {name: "\n\n".join([next(blocks), NOTE, *blocks]).strip() + "\n" for name, blocks in made.items()}


def settings() -> Iterator[str]:
    yield "# Settings"
    yield (
        "All settings are environment variables, read and checked when a process starts. Durations are in seconds, "
        "sizes in bytes. `smartbatch settings` prints them with the values in force; [the command line](cli.md) has "
        "an option for most of them. `smartbatch limits` changes MAX_BATCH_SIZE and MAX_WAIT_TIME of running workers."
    )
    rows = [
        (f"`{name}`", f"`{kind}`", f"`{default}`" if default != "" else "", linked(meaning))
        for name, kind, default, meaning in describe()
    ]
    yield table(("variable", "type", "default", "meaning"), rows)


def linked(text: str) -> str:
    """Make links of the pages that a text names."""
    return re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text)


def commands() -> Iterator[str]:
    yield "# Command line"
    yield "`make up` installs `smartbatch` into `.venv/bin`. An option wins over the [setting](settings.md) behind it."
    yield table(
        ("command", "what it does"), [(f"[`{name}`](#smartbatch-{name})", text) for name, text in COMMANDS.items()]
    )
    context = click.Context(cli, info_name="smartbatch")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield from one_command(command, click.Context(command, context, info_name=name), "##")


def one_command(command: click.Command, context: click.Context, level: str) -> Iterator[str]:
    yield f"{level} {context.command_path}"
    yield f"```text\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```"
    yield from (one_line(part) for part in (command.help or "").split("\n\n"))
    records = [p.get_help_record(context) for p in command.get_params(context) if "--help" not in p.opts]
    if options := [(f"`{record[0]}`", one_line(record[1])) for record in records if record]:
        yield table(("option", "meaning"), options)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            each = command.get_command(context, name)
            assert each is not None
            yield from one_command(each, click.Context(each, context, info_name=name), level + "#")


def error_codes() -> Iterator[str]:
    yield "# Errors"
    yield (
        "Every error is a JSON object of [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem details. `code` is "
        "stable, `detail` is for people, and `error` repeats it for clients of the Open Inference Protocol:"
    )
    yield (
        '```json\n{"type": "urn:smartbatch:queue_full", "title": "Queue full", "status": 503, "detail": "…",\n'
        ' "code": "queue_full", "error": "…", "request_id": "…"}\n```'
    )
    yield (
        "**Retry** says whether the same request may succeed when it is sent again. With 429 and 503 wait for "
        "`Retry-After` seconds first; nothing was run. [Troubleshooting](troubleshooting.md) says what to change."
    )
    sent = [cls for cls in errors.by_code().values() if not issubclass(cls, (errors.StartupError, errors.RouteChanged))]
    rows = [
        (str(status_of(cls(""))), f"`{cls.code}`", "yes" if cls.retryable else "no", meaning_of(cls))
        for cls in sent
        if cls not in NEVER_RAISED
    ]
    rows.append(("500", f"`{errors.INTERNAL}`", "no", "A bug: the server's log has it under the request id."))
    yield table(("status", "code", "retry", "meaning"), sorted(rows))


def meaning_of(cls: type[errors.SmartBatchError]) -> str:
    return one_line(cls.__dict__.get("__doc__") or cls.code.replace("_", " ").capitalize())


def http() -> Iterator[str]:
    api = json.loads(document(Settings()))
    yield "# HTTP API"
    yield (
        "What `GET /openapi.json` of a gateway with default settings describes; `GET /docs` shows it as a page to try "
        "out. [Requests](requests.md) has examples. Any path may also answer with one of the [errors](errors.md)."
    )
    for path, operations in api["paths"].items():
        if "/versions/" not in path:
            for operation in operations.values():
                yield from endpoint(operation)
    yield "Every path of a model also exists with `/versions/{version}` after the model's name."
    yield "## Schemas"
    for name, schema in sorted(api["components"]["schemas"].items()):
        yield from described_schema(name, schema)


def endpoint(operation: dict[str, Any]) -> Iterator[str]:
    yield f"## {operation['summary']}"
    yield operation["description"]
    if parameters := operation.get("parameters"):
        rows = [
            (f"`{each['name']}`", each["in"], type_of(each["schema"]), each.get("description", ""))
            for each in parameters
        ]
        yield table(("parameter", "in", "type", "meaning"), rows)
    if body := operation.get("requestBody"):
        yield f"Body: {body.get('description', '')}".strip()
        yield table(("content type", "body"), contents(body["content"]))
    answers = [
        (status, media, what)
        for status, response in operation["responses"].items()
        for media, what in contents(response.get("content", {}))
        if "problem" not in media and "Problem" not in what
    ]
    yield table(("status", "content type", "answer"), sorted(answers))
    if headers := operation["responses"].get("200", {}).get("headers"):
        yield table(("response header", "meaning"), [(f"`{name}`", h["description"]) for name, h in headers.items()])
    codes = [status for status in sorted(operation["responses"]) if status >= "400"]
    yield f"Errors: {', '.join(codes)}."


def contents(by_media: dict[str, Any]) -> list[tuple[str, str]]:
    return [(f"`{media}`", type_of(what.get("schema", {}))) for media, what in by_media.items()]


def described_schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    if schema.get("description"):
        yield one_line(schema["description"])
    required = schema.get("required", ())
    rows = [
        (f"`{field}`", type_of(each), "yes" if field in required else "", each.get("description", ""))
        for field, each in schema.get("properties", {}).items()
    ]
    if rows:
        yield table(("field", "type", "required", "meaning"), rows)


def type_of(schema: dict[str, Any]) -> str:
    """Describe a JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(dict.fromkeys(type_of(each) for each in schema.get("anyOf") or schema["oneOf"]))
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kind = schema.get("type")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        return f"array of {type_of(schema['items'])}" if "items" in schema else "array"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {type_of(schema['additionalProperties'])}"
    return schema.get("description") or kind or "any bytes"


def one_line(text: str) -> str:
    return " ".join(text.split())


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell_of(text) for text in line) + " |" for line in lines)


def cell_of(text: str) -> str:
    """A table's cell. In code, GitHub and mkdocs understand a | in different ways, but both know HTML."""
    text = re.sub(r"`([^`]*\|[^`]*)`", lambda code: f"<code>{html.escape(code[1]).replace('|', '&#124;')}</code>", text)
    return text.replace("|", r"\|")


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
