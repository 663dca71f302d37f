// What the page calls things, and how it writes numbers.

// The parts of a request's time, in their order.
export const PARTS = [
  ["admit", "Admit", "read, checked, put on the stream"],
  ["queue", "Queue", "on the stream, until a worker claimed it"],
  ["decode", "Decode", "bytes to rows, in a worker's CPU thread"],
  ["batch_wait", "Batch wait", "decoded, until its batch was on the device"],
  ["forward", "Forward", "on the device"],
  ["reply", "Reply", "back through Redis to this connection"],
];

export const CLOSED = [
  ["full", "MAX_BATCH_SIZE rows, or the next didn't fit"],
  ["window", "the oldest had waited MAX_WAIT_TIME"],
  ["quiet", "nobody else was expected"],
  ["deadline", "waiting on would have made one late"],
  ["bytes", "it held MAX_BATCH_BYTES"],
  ["drain", "the worker was stopping"],
  ["solo", "a request of a dead worker, run alone"],
];

export const OUTCOMES = [
  ["ok", "answered", "200"],
  ["rejected", "no room, or over a key's limit", "503, 429"],
  ["denied", "no key, or not for this", "401, 403"],
  ["invalid", "not what the model takes", "4xx"],
  ["timeout", "not answered in time", "504"],
  ["cancelled", "taken back", "–"],
  ["error", "failed", "5xx"],
];

export const REFUSALS = ["rejected", "denied", "invalid"];

// Three significant digits, no exponent; a dash for what isn't known.
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
