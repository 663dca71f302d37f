"""What the README says of settings and commands is what the code says."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from smartbatch.deploy.cli import COMMANDS, cli

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_settings_table_is_the_one_that_the_command_makes() -> None:
    made = CliRunner().invoke(cli, ["settings", "--markdown"]).output.strip()
    assert made in README


def test_every_subcommand_is_named() -> None:
    missing = [command for command in COMMANDS if f"smartbatch {command}" not in README]
    assert missing == []
