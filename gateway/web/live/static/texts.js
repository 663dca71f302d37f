// Labels of the page, and number formats.

// The parts of a request's time, in order.
export const PARTS = [
  ["admit", "Admit", "parsed, validated, queued in Redis"],
  ["queue", "Queue", "waiting until a worker claims it"],
  ["decode", "Decode", "payload to rows, in a CPU thread of the worker"],
  ["batch_wait", "Batch wait", "decoded, until its batch starts on the device"],
  ["forward", "Forward", "running on the device"],
  ["reply", "Reply", "back through Redis to the client"],
];

export const CLOSED = [
  ["full", "MAX_BATCH_SIZE rows, or the next request does not fit"],
  ["window", "the oldest request waited MAX_WAIT_TIME"],
  ["idle", "no further request was expected"],
  ["cost", "the other rows cost less in a batch of their own"],
  ["deadline", "waiting longer would miss a deadline"],
  ["bytes", "MAX_BATCH_BYTES of payload"],
  ["drain", "the worker is stopping"],
  ["isolated", "a request of a dead worker, run alone"],
];

export const OUTCOMES = [
  ["ok", "answered", "200"],
  ["rejected", "no capacity, or over an API key's limit", "503, 429"],
  ["denied", "API key missing or not permitted", "401, 403"],
  ["invalid", "invalid request or input", "4xx"],
  ["timeout", "not answered in time", "504"],
  ["cancelled", "by the client or an operator", "–"],
  ["error", "failed", "5xx"],
];

export const CLIENT_ERRORS = ["denied", "invalid"];

// What to do about the errors that are not the client's, by code.
export const ADVICE = {
  queue_full: ["rejected", "Add workers, or raise MAX_QUEUE or MAX_QUEUE_BYTES."],
  deadline_unattainable: ["rejected", "The workers are too slow to answer in time. Add workers, or raise REQUEST_TIMEOUT or the clients' X-Request-Timeout."],
  receiving_full: ["rejected", "Many large bodies arrive at once. Raise MAX_RECEIVING_BYTES, or add gateways."],
  broker_full: ["rejected", "Redis is at its maxmemory. Raise it, or lower MAX_QUEUE_BYTES."],
  broker_unavailable: ["rejected", "Redis does not respond to a gateway. See the gateway's log."],
  draining: ["rejected", "A gateway is stopping."],
  unavailable: ["rejected", "No worker is ready, or none has announced yet what the model takes. Start a worker."],
  rate_limited: ["limited", "An API key is over its rate. Raise its rate in API_KEYS_FILE if that is not intended."],
  quota_exceeded: ["limited", "An API key has used its quota for today. Raise its quota in API_KEYS_FILE if that is not intended."],
  limit_reached: ["limited", "An API key is over its limit."],
  deadline_exceeded: ["failed", "Not answered within the timeout. Add workers, or raise REQUEST_TIMEOUT or the clients' X-Request-Timeout."],
  model_failed: ["failed", "The model raises exceptions. The worker's log has the traceback."],
  dead_lettered: ["failed", "These requests end workers. Look at them with smartbatch dead list."],
  wire_error: ["failed", "Workers and gateways differ in version, or another program writes to Redis."],
  internal_error: ["failed", "This is a bug. The gateway's log has the traceback."],
  error: ["failed", "See the worker's log."],
};

// Three significant digits, no exponent; a dash for a missing value.
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return "0";
  const digits = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

// The name in a model's ID, and the version, like 2 in m@2.
export function nameOf(id) {
  return id.split("@")[0];
}

export function versionOf(id) {
  return Number(id.split("@")[1] ?? 1);
}

// How many workers are ready, of how many.
export function readyOf(workers) {
  const reports = Object.values(workers);
  const those = reports.filter((report) => report.state === "ready").length;
  return those === reports.length ? number(those) : `${those} of ${reports.length}`;
}

export function percent(share) {
  return `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
}

export function wholePercent(share) {
  return `${Math.round(share * 100)} %`;
}

export function ordinal(n) {
  const ending = { one: "st", two: "nd", few: "rd", other: "th" };
  return `${n}${ending[new Intl.PluralRules("en", { type: "ordinal" }).select(n)]}`;
}

export function counted(n, word) {
  return `${number(n)} ${word}${n === 1 ? "" : "s"}`;
}
