"""Parsing of API keys: what is accepted and rejected. No error quotes a possible secret."""

from __future__ import annotations

import hashlib
import math

import pytest

from smartbatch.gateway.auth.keys import Key, check, digest_of, from_file, from_variable, new_key, to_toml
from smartbatch.shared.errors import SettingsError

A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()


def rejection(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        from_file(text.encode(), "keys.toml")
    return str(caught.value)


def test_file_holds_a_table_for_each_key() -> None:
    text = f"""
        [keys.app]
        sha256 = "{A}"
        rate = 50
        burst = 100
        quota = 100000
        models = ["resnet18"]

        [keys."prometheus.eu"]
        sha256 = "{B}"
        role = "monitor"
    """
    assert from_file(text.encode(), "keys.toml") == {
        "app": Key(sha256=A, rate=50.0, burst=100.0, quota=100_000, models=("resnet18",)),
        "prometheus.eu": Key(sha256=B, role="monitor"),
    }
    assert from_file(b"", "keys.toml") == {}


def test_variable_holds_names_and_digests() -> None:
    assert from_variable(f"app:{A}, other:{B.upper()},") == {"app": Key(sha256=A), "other": Key(sha256=B.upper())}
    assert from_variable("") == {}


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("[keys.a]\nsha256 = 'my-plain-secret'", "keys.toml: a: expected the key's SHA-256, 64 hex digits"),
        (f"[keys.'a b']\nsha256 = '{A}'", "keys.toml: a key name must be 1 to 64 characters of A-Z a-z 0-9 . _ -"),
        (f"[keys.a]\nsha256 = '{A}'\nrate = -1", "keys.toml: a: Expected `float` >= 0.0 - at `$.rate`"),
        (f"[keys.a]\nsha256 = '{A}'\nrate = nan", "keys.toml: a: Expected `float` >= 0.0 - at `$.rate`"),
        (f"[keys.a]\nsha256 = '{A}'\nrate = inf", "keys.toml: a: Expected `float` <= 1000000000.0 - at `$.rate`"),
        (f"[keys.a]\nsha256 = '{A}'\nrole = 'root'", "keys.toml: a: Invalid enum value 'root' - at `$.role`"),
        (f"[keys.a]\nsha256 = '{A}'\nrates = 5", "keys.toml: a: Object contains unknown field `rates`"),
        (f"[keys.a]\nsha256 = '{A}'\nmodels = ['{{x}}']", "keys.toml: a: a model name must be 1 to 128 characters"),
        (f"[keys.a]\nsha256 = '{A}'\n[keys.b]\nsha256 = '{A.upper()}'", "keys.toml: a and b have the same key"),
        ("[keys.a]\n", "keys.toml: a: Object missing required field `sha256`"),
        ("sha256 = 'my-plain-secret'", "keys.toml: Object contains unknown field `sha256`"),
        ("[keys.a]\nsha256 = my-plain-secret", "keys.toml: Invalid value (at line 2, column 10)"),
    ],
)
def test_invalid_file_is_rejected_by_name_and_never_quoted(text: str, parsed: str) -> None:
    assert rejection(text).startswith(parsed)
    assert "my-plain-secret" not in rejection(text)


def test_file_that_is_not_text_is_rejected() -> None:
    with pytest.raises(SettingsError, match=r"^keys\.toml: "):
        from_file(b"\xff\xfe", "keys.toml")


@pytest.mark.parametrize("text", ["app", f"{A}", "app:", f"app:{A}0", f"app:{A},app:{B}", f"app:{A},b:{A}"])
def test_invalid_variable_is_rejected_and_never_quoted(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^API_KEYS: ") as caught:
        from_variable(text)
    assert A not in str(caught.value)


def test_a_name_in_file_and_variable_is_rejected() -> None:
    with pytest.raises(SettingsError, match="both: duplicate key name a"):
        check([("a", Key(sha256=A)), ("a", Key(sha256=B))], "both")


def test_new_keys_are_32_random_bytes() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("sb_") and len(key) == 3 + math.ceil(32 * 4 / 3) for key in keys)


@pytest.mark.parametrize("name", ["app", "app.eu", "0"])
@pytest.mark.parametrize(
    "key", [Key(sha256=A), Key(sha256=A, role="admin", rate=0.5, burst=3, quota=9, models=("a", "b"))]
)
def test_written_keys_read_back_the_same(name: str, key: Key) -> None:
    assert from_file(to_toml(name, key).encode(), "keys.toml") == {name: key}


def test_a_digest_is_plain_sha256() -> None:
    assert digest_of(b"a").hex() == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
