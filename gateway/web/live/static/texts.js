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

export const REJECTED = ["rejected", "denied", "invalid"];

// Three significant digits, no exponent; a dash for a missing value.
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return "0";
  const digits = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

export function percent(share) {
  return `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
}

export function ordinal(n) {
  const ending = { one: "st", two: "nd", few: "rd", other: "th" };
  return `${n}${ending[new Intl.PluralRules("en", { type: "ordinal" }).select(n)]}`;
}

export function counted(n, word) {
  return `${number(n)} ${word}${n === 1 ? "" : "s"}`;
}
