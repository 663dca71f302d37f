"""locust -f loadtest/locustfile.py --host http://127.0.0.1:8000

Against any running server; `--help` has what it adds to Locust's own options, docs/load-testing.md how to use it.
"""

import logging
import sys

from locust import events
from locust.env import Environment
from locust.exception import StopTest
from locust.runners import MasterRunner, WorkerRunner

from loadtest.swarm import options, references
from loadtest.swarm.client import Client
from loadtest.swarm.shape import Shape
from loadtest.traffic.asking import Refused

__all__ = ["Client", "Shape"]

log = logging.getLogger(__name__)


@events.init_command_line_parser.add_listener
def add_options(parser) -> None:
    parser.set_defaults(host="http://127.0.0.1:8000")
    options.add(parser)


@events.test_start.add_listener
def ask_for_references(environment: Environment, **_) -> None:
    """Before the load. What can't be done ends the test, with a line that says why."""
    runner, parsed = environment.runner, environment.parsed_options
    if runner is None or parsed is None or isinstance(runner, MasterRunner):
        return  # a master sends nothing itself
    headers = {"x-api-key": parsed.api_key} if parsed.api_key else {}
    url = references.target(environment.host or parsed.host, parsed.model)
    try:
        taken = references.ask(url, options.chosen(parsed), headers)
    except (Refused, ValueError) as error:
        environment.process_exit_code = 2
        if isinstance(runner, WorkerRunner):
            log.error("%s", error)
            sys.exit(2)
        runner.log_exception("local", str(error), "")  # the web page shows it
        raise StopTest(str(error)) from None
    path = url.removeprefix(environment.host.rstrip("/")) if environment.host else "/predict"
    Client.prepare(taken, path, headers, parsed.think_time)


@events.test_stop.add_listener
def tell(environment: Environment, **_) -> None:
    if environment.runner is None or isinstance(environment.runner, MasterRunner):
        return
    refused = sum(entry.num_requests for (name, _), entry in environment.stats.entries.items() if "refused" in name)
    where = "in this worker" if isinstance(environment.runner, WorkerRunner) else "in all"
    total = environment.stats.total
    log.info(
        "answers checked and right: %d; refused with Retry-After: %d; failed: %d (%s)",
        *(Client.checked, refused, total.num_failures, where),
    )
