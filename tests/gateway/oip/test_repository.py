"""Who may load and unload models by request, and what such a request may say."""

from __future__ import annotations

import hashlib

import pytest
from prometheus_client import CollectorRegistry

from smartbatch.gateway.auth.keys import Key, Role
from smartbatch.gateway.auth.principal import Principal
from smartbatch.gateway.oip.repository import check_load, check_may_change, check_unload, target
from smartbatch.shared.errors import ClientError, Forbidden, UnknownModel
from smartbatch.shared.telemetry import metric_names


def principal(role: Role, *models: str) -> Principal:
    key = Key(sha256=hashlib.sha256(b"x").hexdigest(), role=role, models=models)
    return Principal("app", key, metric_names.KEY_REQUESTS.counter(CollectorRegistry()))


def test_without_api_keys_only_the_management_port_may_change_models() -> None:
    check_may_change(None, "m", managed=True)
    with pytest.raises(Forbidden, match=r"role admin, or without API keys MANAGEMENT_PORT"):
        check_may_change(None, "m", managed=False)


@pytest.mark.parametrize("managed", [True, False])
@pytest.mark.parametrize("role", ["client", "monitor"])
def test_other_roles_than_admin_may_not_change_models(role: Role, managed: bool) -> None:
    with pytest.raises(Forbidden, match="an API key with the role admin is required"):
        check_may_change(principal(role), "m", managed=managed)


def test_an_admin_may_change_the_models_of_its_key() -> None:
    check_may_change(principal("admin"), "m@2", managed=False)
    check_may_change(principal("admin", "m"), "m@2", managed=False)
    with pytest.raises(Forbidden, match="may not use this model"):
        check_may_change(principal("admin", "other"), "m@2", managed=False)


def test_a_name_may_have_a_version() -> None:
    assert (target("m"), target("m@1"), target("m@20")) == (("m", 0), ("m", 1), ("m", 20))
    for text in ("m@", "m@x", "m@0", "../m", "", "m@2@3"):
        with pytest.raises(UnknownModel):
            target(text)


def test_options_that_this_server_lacks_are_refused() -> None:
    check_load("", ())
    check_unload("", ("unload_dependents",))
    for name in ("config", "file:1/model.onnx"):
        with pytest.raises(ClientError, match=f"the parameter '{name}' is not supported"):
            check_load("", (name,))
    with pytest.raises(ClientError, match="unknown parameter 'config'"):
        check_unload("", ("unload_dependents", "config"))
    for check in (check_load, check_unload):
        with pytest.raises(ClientError, match="repository_name is not supported"):
            check("models", ())
