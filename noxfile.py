"""The tests on every supported Python: `.venv/bin/nox`, or `.venv/bin/nox -s tests-3.13 -- tests/gateway`."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    extras = "worker,grpc,otel,local,examples,loadtest,test"
    session.install("-c", "constraints.txt", "-e", f".[{extras}]")
    session.run("pytest", "-m", "not docker", *session.posargs)
