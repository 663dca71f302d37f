"""README and docs are correct: their commands run as shown, and the names in them exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import click
import pytest

from smartbatch.deploy.cli import cli
from smartbatch.shared import errors
from smartbatch.shared.settings import describe
from tests.pages import BLOCK, ROOT, Console

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES}
SHELL = {
    name: "".join(text for kind, text in BLOCK.findall(page) if kind in ("console", "bash"))
    for name, page in TEXTS.items()
}
INLINE = {name: re.findall(r"`([^`\n]+)`", BLOCK.sub("", page)) for name, page in TEXTS.items()}
CODE = {name: "\n".join([SHELL[name], *INLINE[name]]) for name in TEXTS}  # everything written as code


@pytest.mark.timeout(300)
def test_commands_of_the_readme_run_as_shown(tmp_path: Path) -> None:
    with Console(tmp_path) as console:
        assert console.run_page(README.read_text()) >= 7


@pytest.mark.extended
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name in TEXTS if name != "README.md" and "```console" in TEXTS[name]])
def test_commands_of_a_page_run_as_shown(name: str, tmp_path: Path) -> None:
    with Console(tmp_path) as console:
        assert console.run_page(TEXTS[name]) > 0


def test_the_readme_is_short_and_no_page_installs_another_project() -> None:
    assert len(README.read_text().splitlines()) <= 200
    assert [name for name, page in TEXTS.items() if re.search(r"pip install '?\"?smartbatch\b(?!-)", page)] == []


def test_generated_pages_are_up_to_date() -> None:
    generate = _load(ROOT / "docs/generate.py")
    stale = [name for name, text in generate.pages().items() if (ROOT / "docs" / name).read_text() != text]
    assert stale == [], "run `make generated`"


def test_troubleshooting_says_what_to_change_for_each_error_code_and_each_alert() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", TEXTS["docs/troubleshooting.md"], re.M)
    named = [name for seen, _ in rows for name in re.findall(r"`(\w+)`", seen)]
    never_raised = {cls.code for cls in _load(ROOT / "docs/generate.py").NEVER_RAISED}
    codes = {*errors.by_code(), errors.INTERNAL, "not_found", "method_not_allowed"} - never_raised
    alerts = re.findall(r"alert: (\w+)", (ROOT / "deploy/observability/prometheus/alerts.yml").read_text())
    assert sorted(named) == sorted([*codes, *alerts])


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    missing = {(name, used) for name, code in CODE.items() for used in re.findall(r"\bmake ([a-z][\w-]*)", code)}
    assert [each for each in sorted(missing) if each[1] not in targets] == []


def test_every_subcommand_and_option_exists() -> None:
    wrong = []
    for name, code in CODE.items():
        for words in re.findall(r"\bsmartbatch ((?:[a-z]+\b)(?: [^|&;#\n]*)?)", code):
            command, rest = _command(words.split())
            if command is None:
                wrong.append((name, words))
                continue
            known = {option for parameter in command.params for option in parameter.opts}
            wrong += [(name, words, option) for option in re.findall(r"(?<!\S)--[a-z-]+", rest) if option not in known]
    assert wrong == []


def _command(words: list[str]) -> tuple[click.Command | None, str]:
    """Return the command with which the words begin (None if there is none) and the words after it."""
    found: click.Command | None = cli
    context = click.Context(cli)
    while isinstance(found, click.Group) and words and re.fullmatch("[a-z]+", words[0]):
        found = found.get_command(context, words.pop(0))
    return found, " ".join(words)


def test_every_module_in_a_command_exists() -> None:
    modules = {used for code in CODE.values() for used in re.findall(r"python3? -m ([\w.]+)", code)}
    assert [used for used in sorted(modules) if importlib.util.find_spec(used) is None] == []


def test_every_named_file_exists() -> None:
    folders = "gateway|worker|shared|deploy|smartbatch|loadtest|simulation|tests|examples|docs"
    path = re.compile(rf"(?<![\w/.])((?:{folders})/[\w./*-]*+)(?![{{<]|::)")
    named = {(name, found) for name in TEXTS for code in INLINE[name] for found in path.findall(code)}
    assert [each for each in sorted(named) if not list(ROOT.glob(each[1].rstrip("/.")))] == []


def test_every_variable_in_a_command_is_a_setting() -> None:
    known = {name for name, *_ in describe()} | {"SMARTBATCH_API_KEY"}
    known |= set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    known |= set(re.findall(r"\b[A-Z]+\b", (ROOT / "Makefile").read_text()))
    known |= set(re.findall(r"\bOTEL_\w+|\bAPT_\w+", (ROOT / "docker-compose.yml").read_text()))
    named = {(name, used) for name, code in SHELL.items() for used in re.findall(r"\b([A-Z][A-Z_]+)=", code)}
    assert [each for each in sorted(named) if each[1] not in known] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "examples/README.md"])
def test_links_have_existing_targets(name: str) -> None:
    """Those of docs/ are checked by `make docs`."""
    for link in re.findall(r"\]\(([^)#]+)(#[^)]*)?\)", TEXTS[name]):
        target, anchor = link
        if "://" not in target:
            file = ROOT / Path(name).parent / target
            assert file.exists(), target
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M) if anchor else []
            assert not anchor or anchor[1:] in [
                re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings
            ]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
