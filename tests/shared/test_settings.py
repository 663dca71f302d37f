"""Settings from the environment: validated, with one line for an error."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.shared.errors import SettingsError, UnknownModel
from smartbatch.shared.settings import (
    Settings,
    default_model_name,
    describe,
    from_environment,
    mask_url,
    near_misses,
    public,
)

CHARACTERS = st.characters(min_codepoint=33, max_codepoint=126)


def error_of(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        from_environment(environ)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- values


def test_an_empty_environment_gives_the_defaults() -> None:
    assert from_environment({}) == Settings()
    assert (Settings().model_path, Settings().max_batch_size, Settings().port) == ("efficientnet_lite0", 32, 8000)


def test_text_becomes_the_declared_type() -> None:
    settings = from_environment({"MAX_BATCH_SIZE": "64", "MAX_WAIT_TIME": "0.005", "PORT": "0", "LOG_FORMAT": "json"})
    assert (settings.max_batch_size, settings.max_wait_time, settings.port) == (64, 0.005, 0)
    assert settings.log_format == "json"


def test_an_empty_variable_counts_as_missing() -> None:
    assert from_environment({"MAX_BATCH_SIZE": "", "MODEL_PATH": ""}) == Settings()


def test_unrelated_variables_are_ignored() -> None:
    assert from_environment({"max_batch_size": "7", "MAX_BATCH": "7", "PATH": "/bin"}) == Settings()


def test_the_command_line_overrides_the_environment() -> None:
    assert from_environment({"PORT": "1", "HOST": "a"}, port="2", host=None).port == 2
    assert from_environment({"PORT": "1", "HOST": "a"}, port="2", host=None).host == "a"


def test_settings_are_immutable() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc] # what a type checker refuses is tried


# --- errors


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MAX_BATCH_SIZE", "x", "a whole number from 1 to 65536"),
        ("MAX_BATCH_SIZE", "1.5", "a whole number from 1 to 65536"),
        ("MAX_BATCH_SIZE", "0", "a whole number from 1 to 65536"),
        ("MAX_BATCH_SIZE", "65537", "a whole number from 1 to 65536"),
        ("MAX_WAIT_TIME", "-1", "a number of seconds from 0 to 60"),
        ("MAX_WAIT_TIME", "61", "a number of seconds from 0 to 60"),
        ("MAX_WAIT_TIME", "10ms", "a number of seconds from 0 to 60"),
        ("REQUEST_TIMEOUT", "0", "a number of seconds above 0 and up to 86400"),
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("PORT", "abc", "a whole number from 0 to 65535"),
        ("METRICS_PORT", "-2", "a whole number from -1 to 65535"),
        ("MAX_BODY_BYTES", "16M", "a whole number of bytes from 1"),
        ("DEBUG_ERRORS", "maybe", "true or false"),
        ("LOG_LEVEL", "loud", "debug, info, warning or error"),
    ],
)
def test_error_names_the_variable_what_was_expected_and_what_came(variable: str, value: str, expected: str) -> None:
    assert error_of(**{variable: value}) == f"{variable}: expected {expected}, got {value!r}"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_duration_is_a_finite_number(value: str) -> None:
    assert error_of(MAX_WAIT_TIME=value).startswith("MAX_WAIT_TIME: ")
    assert error_of(REQUEST_TIMEOUT=value).startswith("REQUEST_TIMEOUT: ")


@pytest.mark.parametrize(
    ("variable", "choice"), [("LOG_FORMAT", "human"), ("LOG_LEVEL", "warning"), ("DTYPE", "bfloat16")]
)
def test_an_error_of_a_choice_names_the_choices(variable: str, choice: str) -> None:
    text = error_of(**{variable: "xml"})
    assert text.startswith(f"{variable}: ")
    assert choice in text
    assert text.endswith("got 'xml'")


def test_a_number_for_a_choice_is_rejected() -> None:
    assert error_of(LOG_LEVEL="10").startswith("LOG_LEVEL: ")


# --- misspelt variables


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("MAX_BATCHSIZE", "MAX_BATCH_SIZE"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("REQUEST_TIMEOUT_MS", "REQUEST_TIMEOUT"),
        ("REDIS_URI", "REDIS_URL"),
    ],
)
def test_variable_that_is_nearly_a_setting_is_a_near_miss(variable: str, near: str) -> None:
    assert near_misses({variable: "4", "PORT": "1"}) == [(variable, near)]


@pytest.mark.parametrize(
    "variable", ["PORT", "max_batchsize", "WINDOWID", "HOSTNAME", "REDIS_PORT", "OMP_NUM_THREADS", "TORCH_HOME"]
)
def test_variables_of_others_are_no_near_misses(variable: str) -> None:
    assert near_misses({variable: "1"}) == []


# --- REDIS_URL


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:1/2",
        "rediss://u:p@h",
        "unix:///run/redis.sock",
        "redis://[::1]:6379/0",
        "redis+sentinel://u:p@h1:1,[::1]:2/name?sentinel_password=q",
        "redis+cluster://h1,h2",
    ],
)
def test_redis_url_accepts_every_form_of_redis(url: str) -> None:
    assert from_environment({"REDIS_URL": url}).redis_url == url


def test_redis_url_of_another_scheme_is_rejected_without_its_password() -> None:
    text = error_of(REDIS_URL="http://u:geheim@h:99")
    assert text.startswith(
        "REDIS_URL: expected redis://user:password@host:port/db (or rediss://, unix://, redis+sentinel://, "
    )
    assert text.endswith("got 'http://u:***@h:99'")


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:geheim@h:abc",
        "redis://u:geheim@h:99999",
        "redis://u:ge/heim@h:6379/0",
        "redis://u:geheim@[h:1/0",
        "redis+sentinel://u:geheim@h1,h2",
        "redis+sentinel://u:geheim@h1:port,h2/name",
        "redis+cluster://u:geheim@h1,h2/1",
    ],
)
def test_invalid_redis_url_is_rejected_without_its_password(url: str) -> None:
    text = error_of(REDIS_URL=url)
    assert text.startswith("REDIS_URL: ")
    assert "heim" not in text


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://u@h:1/0", "redis://u@h:1/0"),
        ("redis://u:p@h:1/0?x=1", "redis://u:***@h:1/0?x=1"),
        ("rediss://:p@h/0", "rediss://:***@h/0"),
        ("redis://u:p@ss@h:1", "redis://u:***@h:1"),
        ("unix://u:p@/run/redis.sock", "unix://u:***@/run/redis.sock"),
        ("redis+cluster://u:p@h1:1,h2:2", "redis+cluster://u:***@h1:1,h2:2"),
        ("redis+sentinel://h1,h2/n?sentinel_password=p", "redis+sentinel://h1,h2/n?sentinel_password=***"),
    ],
)
def test_mask_url_hides_the_password_and_nothing_else(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_mask_url_keeps_the_brackets_of_ipv6() -> None:
    assert mask_url("redis://u:p@[::1]:6379/0") == "redis://u:***@[::1]:6379/0"


def test_mask_url_hides_a_password_given_as_an_option() -> None:
    assert "geheim" not in mask_url("redis://h:1/0?password=geheim")


@given(st.text(CHARACTERS, min_size=1).map(lambda text: "".join(c for c in text if c not in "/?#[]") + "\u2009secret"))
def test_masking_removes_every_password(password: str) -> None:
    assert "secret" not in mask_url(f"redis://user:{password}@h:6379/0")


def test_public_settings_mask_the_password_and_keep_the_rest() -> None:
    settings = from_environment({"REDIS_URL": "redis://u:geheim@h:1/0", "PORT": "81"})
    shown = public(settings)
    assert (shown["redis_url"], shown["port"]) == ("redis://u:***@h:1/0", 81)
    assert shown.keys() == set(Settings.__struct_fields__)
    assert settings.redis_url == "redis://u:geheim@h:1/0"


def test_public_settings_name_the_api_keys_and_mask_their_digests() -> None:
    shown = public(from_environment({"API_KEYS": "app:0123abcd, other:4567ef"}))
    assert shown["api_keys"] == "app:***, other:***"


def test_an_unknown_url_option_is_rejected_by_name() -> None:
    text = error_of(REDIS_URL="rediss://u:geheim@h:1/0?ssl_ca_cert=ca.pem&x=geheim")
    assert text.startswith(
        "REDIS_URL: unknown option 'ssl_ca_cert'; known options are db, password, password_file, sentinel_password, "
    )
    assert "geheim" not in text


@pytest.mark.parametrize(
    ("url", "with_file"),
    [
        ("redis://gateway@h:1/0", "redis://gateway@h:1/0?password_file=%2Frun%2Fsecret"),
        ("rediss://h?ssl_ca_certs=ca.pem", "rediss://h?ssl_ca_certs=ca.pem&password_file=%2Frun%2Fsecret"),
    ],
)
def test_the_broker_url_includes_the_password_file(url: str, with_file: str) -> None:
    assert from_environment({"REDIS_URL": url}).broker_url == url
    assert from_environment({"REDIS_URL": url, "REDIS_PASSWORD_FILE": "/run/secret"}).broker_url == with_file


@pytest.mark.parametrize("url", ["redis://u:geheim@h:1/0", "redis://h:1/0?password=geheim"])
def test_a_password_in_two_places_is_rejected(url: str) -> None:
    text = error_of(REDIS_URL=url, REDIS_PASSWORD_FILE="/run/secret")
    assert text.startswith("REDIS_PASSWORD_FILE: ")
    assert "geheim" not in text


# --- the model's name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("resnet18", "resnet18"),
        ("simulated", "simulated"),
        ("simulated:base_ms=4,row_ms=0.2", "simulated"),
        ("examples.text_embedding:TextEmbedding", "TextEmbedding"),
        ("/models/net.pt2", "net"),
        ("net v2 (best).pt2", "net-v2-best-"),
        ("é.pt2", "-"),
        (":", "model"),
    ],
)
def test_default_model_name_is_made_from_the_path(path: str, name: str) -> None:
    assert default_model_name(path) == name


@given(st.text(min_size=1).filter(lambda text: len(text) <= 128))
def test_default_model_name_is_always_valid_in_a_key(path: str) -> None:
    assert Settings(model_path=path).model


def test_model_name_overrides_the_path() -> None:
    assert from_environment({"MODEL_PATH": "resnet18", "MODEL_NAME": "cats"}).model == "cats"


@pytest.mark.parametrize("name", ["a b", "a{b}", "a:b", "é", "x" * 129])
def test_invalid_model_name_is_rejected(name: str) -> None:
    with pytest.raises(UnknownModel, match="1 to 128 characters"):
        _ = from_environment({"MODEL_NAME": name}).model


# --- declarations


def test_every_setting_is_described_with_its_type_default_and_meaning() -> None:
    rows = {name: (kind, default, meaning) for name, kind, default, meaning in describe()}
    assert list(rows) == [field.upper() for field in Settings.__struct_fields__]
    assert rows["LOG_FORMAT"] == ("human | json", "human", "Format of log lines")
    assert rows["MAX_BATCH_SIZE"] == ("int", 32, "Maximum rows per batch")
    assert rows["REQUEST_TIMEOUT"][:2] == ("float", 30.0)
    assert all(meaning for _, _, meaning in rows.values())


def test_every_default_is_valid() -> None:
    defaults = {field.upper(): str(value) for field, value in msgspec.to_builtins(Settings()).items()}
    assert from_environment(defaults) == Settings()


@given(
    st.builds(
        Settings,
        max_batch_size=st.integers(1, 65536),
        max_wait_time=st.floats(0, 60),
        port=st.integers(0, 65535),
        metrics_port=st.integers(-1, 65535),
        request_timeout=st.floats(0.001, 86400),
        dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
        log_level=st.sampled_from(["debug", "info", "warning", "error"]),
        model_path=st.text(CHARACTERS, min_size=1),
    )
)
def test_settings_written_to_an_environment_read_back_the_same(settings: Settings) -> None:
    environ = {field.upper(): str(value) for field, value in msgspec.to_builtins(settings).items()}
    assert from_environment(environ) == settings
