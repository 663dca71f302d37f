"""Sections on requests and batches."""

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
from smartbatch.deploy.observability.dashboard.queries import EACH, ID, PER, M, increase, now, quantile, rate
from smartbatch.shared import errors
from smartbatch.shared.telemetry import metric_names as names

OF_ALL_VERSIONS = f'sum by (model) (rate({names.REQUESTS.name}{{model=~"$model"}}{PER}))'
OK = ',outcome="ok"'
FAILED = ',outcome=~"error|timeout"'
LATENCY = rate(names.REQUEST_SECONDS, f"{EACH}, le", "_bucket", OK)
REJECTED = f',code=~"{"|".join(sorted(errors.codes_of(errors.Unavailable)))}"'


GLANCE = Section(
    "At a glance",
    [
        Panel(
            kind="stat",
            title="Answered",
            description="Requests answered with a result, per second.",
            queries=[Query(rate(names.REQUESTS, where=OK), ID)],
            unit="reqps",
            width=4,
            height=4,
        ),
        Panel(
            kind="stat",
            title="Rejected",
            description="Share of requests rejected with 503 for lack of capacity, time or Redis.",
            queries=[Query(f"{rate(names.REQUEST_ERRORS, where=REJECTED)} / {rate(names.REQUESTS)}", ID)],
            unit="percentunit",
            steps={0.01: ORANGE, 0.05: RED},
            width=4,
            height=4,
        ),
        Panel(
            kind="stat",
            title="p99",
            description="99 % of responses were faster than this.",
            queries=[Query(quantile(0.99, LATENCY), ID)],
            unit="s",
            width=4,
            height=4,
        ),
        Panel(
            kind="stat",
            title="Waiting",
            description="Entries that no worker has claimed yet.",
            queries=[Query(now(names.QUEUE_DEPTH), ID)],
            width=4,
            height=4,
        ),
        Panel(
            kind="stat",
            title="Ready workers",
            description="Workers in state ready. Without one, requests wait until they time out.",
            queries=[Query(f'max by ({EACH}) ({names.WORKERS.name}{{{M},state="ready"}})', ID)],
            steps={0: RED, 1: GREEN},
            width=4,
            height=4,
        ),
        Panel(
            kind="stat",
            title="Dead letters",
            description="Requests that ended every worker that ran them: `smartbatch dead list`.",
            queries=[Query(now(names.DEAD_LETTERS), ID)],
            steps={1: RED},
            width=4,
            height=4,
        ),
    ],
)

VERSIONS = Section(
    "Versions of a model",
    [
        Panel(
            title="Share of the requests",
            description="Of the requests to a model, the share that each of its versions gets.",
            queries=[Query(f"{rate(names.REQUESTS)} / on (model) group_left () {OF_ALL_VERSIONS}", ID)],
            unit="percentunit",
            maximum=1,
        ),
        Panel(
            title="Failed requests",
            description="Share of a version's requests that ended in an error of the server or a timeout.",
            queries=[Query(f"{rate(names.REQUESTS, where=FAILED)} / {rate(names.REQUESTS)}", ID)],
            unit="percentunit",
        ),
        Panel(
            title="Mean latency",
            description="From the arrival of a request at a gateway to its response; only requests with a result.",
            queries=[
                Query(
                    f"{rate(names.REQUEST_SECONDS, suffix='_sum', where=OK)}"
                    f" / {rate(names.REQUEST_SECONDS, suffix='_count', where=OK)}",
                    ID,
                )
            ],
            unit="s",
        ),
        Panel(
            title="Answers of shadow versions",
            description="Copies of requests, by how their answers compare with the real ones.",
            queries=[Query(rate(names.SHADOW_COPIES, f"{EACH}, outcome"), f"{ID} {{{{outcome}}}}")],
            unit="reqps",
        ),
    ],
)

REQUESTS = Section(
    "Requests",
    [
        Panel(
            title="Throughput by outcome",
            description="Requests by outcome, over all gateways.",
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
            title="Latency",
            description="From the arrival of a request at a gateway to its response; only requests with a result.",
            queries=[Query(quantile(q, LATENCY), f"{ID} p{q * 100:g}") for q in (0.5, 0.95, 0.99)],
            unit="s",
        ),
        Panel(
            title="Mean time per part",
            description="admit (gateway to Redis), queue (until claimed), decode, batch_wait (until the forward "
            "starts), forward, reply (back to the client).",
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
            title="Errors and rejections by code",
            description="Error codes of all requests without a result.",
            queries=[Query(f"{rate(names.REQUEST_ERRORS, 'code')} > 0", "{{code}}")],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Rows per second and capacity",
            description="Rows that ran, and the throughput that workers measured with full batches.",
            queries=[
                Query(rate(names.ROWS), ID),
                Query(f"sum by ({EACH}) ({now(names.CAPACITY, f'{EACH}, worker')})", f"{ID} capacity"),
            ],
        ),
        Panel(
            title="Requests by API key",
            description="Admitted and rejected requests by the name of the key. Empty without API keys.",
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
            title="Rows per batch",
            description="Distribution of the batch size.",
            queries=[
                Query(
                    increase(names.BATCH_ROWS, "le", "_bucket"),
                    "{{le}}",
                )
            ],
        ),
        Panel(
            title="Mean batch size",
            description="Mean rows and requests per batch, and the current MAX_BATCH_SIZE.",
            queries=[
                Query(
                    f"{rate(names.BATCH_ROWS, suffix='_sum')} / {rate(names.BATCH_ROWS, suffix='_count')}",
                    f"{ID} rows",
                ),
                Query(
                    f"{rate(names.BATCH_REQUESTS, suffix='_sum')} / {rate(names.BATCH_REQUESTS, suffix='_count')}",
                    f"{ID} requests",
                ),
                Query(now(names.BATCH_LIMIT), f"{ID} limit"),
            ],
        ),
        Panel(
            title="Batches by close reason",
            description="full: MAX_BATCH_SIZE rows; window: MAX_WAIT_TIME passed; idle: no further request expected; "
            "cost: the others cost less apart; deadline: waiting longer would miss a deadline; "
            "isolated: one entry of a dead worker.",
            queries=[Query(rate(names.BATCHES, "closed"), "{{closed}}")],
            unit="ops",
            stacked=True,
        ),
        Panel(
            title="Padding",
            description="Size of a batch with padding, by the sizes of its rows; of models whose rows have sizes.",
            queries=[
                Query(
                    f"{rate(names.PADDING, suffix='_sum')} / {rate(names.PADDING, suffix='_count')}",
                    ID,
                )
            ],
        ),
        Panel(
            title="Predicted time of forwards",
            description="Predicted divided by actual seconds; 1 is exact.",
            queries=[
                Query(
                    f"{rate(names.PREDICTED_FORWARD)} / {rate(names.FORWARD, suffix='_sum')}",
                    ID,
                )
            ],
        ),
        Panel(
            title="Forward",
            description="Time of a batch on the device, including copies to and from it.",
            queries=[
                Query(quantile(q, rate(names.FORWARD, f"{EACH}, le", "_bucket")), f"{ID} p{q * 100:g}")
                for q in (0.5, 0.95)
            ],
            unit="s",
        ),
        Panel(
            title="Queue wait",
            description="From admission to claim, per request.",
            queries=[
                Query(quantile(q, rate(names.QUEUE_WAIT, f"{EACH}, le", "_bucket")), f"{ID} p{q * 100:g}")
                for q in (0.5, 0.95, 0.99)
            ],
            unit="s",
        ),
        Panel(
            title="Decode",
            description="Time in the decode threads, per request.",
            queries=[
                Query(quantile(q, rate(names.DECODE, f"{EACH}, le", "_bucket")), f"{ID} p{q * 100:g}")
                for q in (0.5, 0.95)
            ],
            unit="s",
        ),
    ],
)
