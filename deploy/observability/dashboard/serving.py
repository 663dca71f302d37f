"""What clients get, and how it is batched."""

from __future__ import annotations

from smartbatch.deploy.observability.dashboard.panels import (
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Panel,
    Query,
    Section,
)
from smartbatch.deploy.observability.dashboard.queries import PER, M, increase, now, quantile, rate
from smartbatch.shared import errors
from smartbatch.shared.telemetry import metric_names as names

LATENCY = rate(names.REQUEST_SECONDS, "model, le", "_bucket", ',outcome="ok"')
REFUSED = f',code=~"{"|".join(sorted(errors.codes_of(errors.Unavailable)))}"'

GLANCE = Section(
    "At a glance",
    [
        Panel(
            kind="stat",
            title="Answered",
            says="Requests answered with a result, a second.",
            queries=[Query(rate(names.REQUESTS, where=',outcome="ok"'), "{{model}}")],
            unit="reqps",
            width=4,
            height=4,
        ),
        Panel(
            kind="stat",
            title="Refused",
            says="The share of requests that got a 503 for want of room, time or Redis.",
            queries=[Query(f"{rate(names.REQUEST_ERRORS, where=REFUSED)} / {rate(names.REQUESTS)}", "{{model}}")],
            unit="percentunit",
            steps={0.01: ORANGE, 0.05: RED},
            width=4,
            height=4,
        ),
        Panel(
            kind="stat",
            title="p99",
            says="99 of 100 answers came within this time.",
            queries=[Query(quantile(0.99, LATENCY), "{{model}}")],
            unit="s",
            width=4,
            height=4,
        ),
        Panel(
            kind="stat",
            title="Waiting",
            says="Entries that no worker has claimed.",
            queries=[Query(now(names.QUEUE_DEPTH), "{{model}}")],
            width=4,
            height=4,
        ),
        Panel(
            kind="stat",
            title="Ready workers",
            says="Without one, requests wait until they time out.",
            queries=[Query(f'max by (model) ({names.WORKERS.name}{{{M},state="ready"}})', "{{model}}")],
            steps={0: RED, 1: GREEN},
            width=4,
            height=4,
        ),
        Panel(
            kind="stat",
            title="Dead letters",
            says="Requests put aside because they ended every worker that ran them: `smartbatch dead list`.",
            queries=[Query(now(names.DEAD_LETTERS), "{{model}}")],
            steps={1: RED},
            width=4,
            height=4,
        ),
    ],
)

REQUESTS = Section(
    "Requests",
    [
        Panel(
            title="Throughput by outcome",
            says="How requests ended, over all gateways.",
            queries=[Query(rate(names.REQUESTS, "outcome"), "{{outcome}}")],
            unit="reqps",
            stacked=True,
            colors={
                "ok": GREEN,
                "invalid": YELLOW,
                "denied": BLUE,
                "rejected": ORANGE,
                "timeout": PURPLE,
                "cancelled": GRAY,
                "error": RED,
            },
        ),
        Panel(
            title="Latency of answers",
            says="From a request's arrival at a gateway to its answer. Refusals are fast and not in it.",
            queries=[Query(quantile(q, LATENCY), f"{{{{model}}}} p{q * 100:g}") for q in (0.5, 0.95, 0.99)],
            unit="s",
        ),
        Panel(
            title="Where an answer's time goes",
            says="On average: admit (gateway to Redis), queue (until claimed), decode, batch_wait (until the forward "
            "begins), forward, reply (back to the client).",
            queries=[
                Query(
                    f"{rate(names.PART_SECONDS, 'part')}"
                    f' / on () group_left () sum(rate({names.REQUESTS.name}{{{M},outcome="ok"}}{PER}))',
                    "{{part}}",
                )
            ],
            unit="s",
            stacked=True,
        ),
        Panel(
            title="Refusals and errors by reason",
            says="The code that clients are told, of every request that wasn't answered.",
            queries=[Query(f"{rate(names.REQUEST_ERRORS, 'code')} > 0", "{{code}}")],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Rows a second, and what workers could do",
            says="Rows that ran, and the capacity that the workers have measured with full batches.",
            queries=[
                Query(rate(names.ROWS), "{{model}}"),
                Query(f"sum by (model) ({now(names.CAPACITY, 'model, worker')})", "{{model}} capacity"),
            ],
        ),
        Panel(
            title="Requests by API key",
            says="What was let through and what was refused, by the key's name. Empty without API keys.",
            queries=[
                Query(f"sum by (key, decision) (rate({names.KEY_REQUESTS.name}{PER})) > 0", "{{key}} {{decision}}")
            ],
            unit="reqps",
        ),
    ],
)

BATCHES = Section(
    "Batches",
    [
        Panel(
            kind="heatmap",
            title="Rows in a batch",
            says="How many batches had so many rows.",
            queries=[
                Query(
                    increase(names.BATCH_ROWS, "le", "_bucket"),
                    "{{le}}",
                )
            ],
        ),
        Panel(
            title="Mean batch",
            says="Rows and requests in a batch on average, and MAX_BATCH_SIZE in force.",
            queries=[
                Query(
                    f"{rate(names.BATCH_ROWS, suffix='_sum')} / {rate(names.BATCH_ROWS, suffix='_count')}",
                    "{{model}} rows",
                ),
                Query(
                    f"{rate(names.BATCH_REQUESTS, suffix='_sum')} / {rate(names.BATCH_REQUESTS, suffix='_count')}",
                    "{{model}} requests",
                ),
                Query(now(names.BATCH_LIMIT), "{{model}} limit"),
            ],
        ),
        Panel(
            title="Why batches were closed",
            says="full: MAX_BATCH_SIZE rows; window: MAX_WAIT_TIME was over; quiet: nobody else was expected; "
            "deadline: waiting longer would have made one late; solo: alone, after a crash.",
            queries=[Query(rate(names.BATCHES, "closed"), "{{closed}}")],
            unit="ops",
            stacked=True,
        ),
        Panel(
            title="One forward",
            says="How long the device takes for a batch, with the copies to and from it.",
            queries=[
                Query(quantile(q, rate(names.FORWARD, "model, le", "_bucket")), f"{{{{model}}}} p{q * 100:g}")
                for q in (0.5, 0.95)
            ],
            unit="s",
        ),
        Panel(
            title="Waiting to be claimed",
            says="From admission to claim, by request.",
            queries=[
                Query(quantile(q, rate(names.QUEUE_WAIT, "model, le", "_bucket")), f"{{{{model}}}} p{q * 100:g}")
                for q in (0.5, 0.95, 0.99)
            ],
            unit="s",
        ),
        Panel(
            title="Decoding one request",
            says="In the decode threads, while the batch fills and while the one before is on the device.",
            queries=[
                Query(quantile(q, rate(names.DECODE, "model, le", "_bucket")), f"{{{{model}}}} p{q * 100:g}")
                for q in (0.5, 0.95)
            ],
            unit="s",
        ),
    ],
)
