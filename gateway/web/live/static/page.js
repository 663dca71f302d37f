// Shows the selected model's part of each event of the stream.

import { Charts, KEPT } from "./charts.js";
import { PredictForm } from "./predict.js";
import { Stream } from "./stream.js";
import { bars, fields, rows, setText } from "./tables.js";
import { CLOSED, counted, number, OUTCOMES, percent, REJECTED } from "./texts.js";

const KEY = "smartbatch-api-key"; // in this tab's sessionStorage

const part = (id) => document.getElementById(id);
const key = () => sessionStorage.getItem(KEY) ?? "";

let selected = ""; // the model that is shown; empty until the first event
let newest = null;
const past = []; // events: [seconds, models]

const charts = new Charts(part("charts"));
const form = new PredictForm(key, () => selected, requestKey);
const stream = new Stream(key, { event, state });

function event(now) {
  newest = now;
  const names = Object.keys(now.models);
  if (!names.length) return;
  if (!now.models[selected]) select(now.models[now.default] ? now.default : names[0]);
  options(names);
  if (now.broker === "down") {
    state("lost", "Redis is unavailable; showing the last known values");
    return;
  }
  state("open");
  past.push([now.at_ms / 1000, now.models]);
  if (past.length > KEPT) past.shift();
  charts.add(now.at_ms / 1000, now.models[selected]);
  show();
}

function show() {
  const { stats, last, info } = newest.models[selected];
  form.offer(info, newest.predicts);
  tiles(stats);
  for (const place of document.querySelectorAll(".window-s")) setText(place, number(stats.window_s));
  setText(part("last-window"), number(last.window_s));
  const most = Math.max(info?.max_batch_size ?? 1, 1);
  let below = 0;
  const sizes = Object.keys(stats.batches.rows_at_most).map(Number).sort((a, b) => a - b);
  bars(
    part("rows"),
    sizes
      .map((size) => ({ size, from: below + 1, to: (below = size) }))
      .filter(({ from, size }) => from <= most || stats.batches.rows_at_most[name(size)])
      .map(({ size, from, to }) => ({
        label: from === to ? `${to}` : Number.isFinite(to) ? `${from} to ${to}` : `${from} and more`,
        value: last.rows_at_most[name(size)] ?? 0,
        last: stats.batches.rows_at_most[name(size)],
      })),
  );
  bars(
    part("closed"),
    CLOSED.map(([reason, note]) => ({
      label: reason,
      note,
      value: last.closed[reason] ?? 0,
      last: stats.batches.closed[reason] ?? 0,
    })),
  );
  bars(
    part("outcomes"),
    OUTCOMES.map(([outcome, note, status]) => ({
      label: outcome,
      note,
      value: stats.outcomes[outcome] ?? 0,
      last: status,
    })),
  );
  workers(stats, last);
}

// JSON has no infinity; the server writes "inf".
function name(size) {
  return Number.isFinite(size) ? `${size}` : "inf";
}

function tiles({ throughput_rps, latency_ms, outcomes, window_s, queue, workers }) {
  const rejected = REJECTED.reduce((sum, outcome) => sum + (outcomes[outcome] ?? 0), 0) / window_s;
  const reports = Object.values(workers);
  const ready = reports.filter((report) => report.state === "ready").length;
  fields(part("tiles"), [
    ["Answered / s", number(throughput_rps)],
    ["p50, ms", number(latency_ms.p50)],
    ["p95, ms", number(latency_ms.p95)],
    ["p99, ms", number(latency_ms.p99)],
    ["Waiting", number(queue.waiting)],
    ["Running", number(queue.running)],
    ["Oldest wait, s", number(queue.oldest_wait_s)],
    ["Rejected / s", number(rejected)],
    ["Workers ready", ready === reports.length ? number(ready) : `${ready} of ${reports.length}`],
    ["Dead letters", number(queue.dead_letters)],
  ]);
}

function workers({ workers: reports }, last) {
  rows(
    part("workers"),
    Object.entries(reports).map(([id, report]) => {
      const recent = last.workers[id] ?? { busy: 0, batches: 0, rows: 0 };
      return [
        id,
        report.state,
        `${report.device}`,
        percent(recent.busy),
        number(recent.batches),
        number(recent.rows),
        number(report.batches),
        progress(report),
      ];
    }),
  );
  part("workers").hidden = !Object.keys(reports).length;
  part("no-workers").hidden = Object.keys(reports).length > 0;
}

function progress({ batch, batch_rows, batch_s, state, progress: text }) {
  if (batch) return `${number(batch_s)} s ago, ${counted(batch_rows, "row")} running`;
  return state === "ready" ? "now, idle" : `${text || "now"}`;
}

// --- the model

function select(model) {
  selected = model;
  charts.show(past.flatMap(([at, models]) => (models[model] ? [[at, models[model]]] : [])));
}

function options(names) {
  const list = part("model");
  if ([...list.options].map((option) => option.value).join() !== names.join()) {
    list.replaceChildren(...names.map((each) => new Option(each, each)));
  }
  list.value = selected;
}

part("model").addEventListener("change", () => {
  select(part("model").value);
  show();
});

// --- the stream

const STATES = {
  open: () => "Live",
  stopped: () => "Paused",
  lost: (detail) => `Not live: ${detail}. Reconnecting`,
  rejected: (detail) => `Not live: ${detail}. Retrying later`,
  key: () => "Not live: an API key is required",
  forbidden: () => "No statistics: this key may only run models",
};

function state(name, detail) {
  setText(part("connection"), STATES[name](detail));
  part("connection").dataset.state = name;
  const known = name === "open" || name === "stopped";
  for (const section of document.querySelectorAll(".statistics")) {
    section.classList.toggle("stale", !known);
    if (name === "forbidden" || name === "open") section.hidden = name === "forbidden";
  }
  part("forget").hidden = !key();
  if (name === "key") requestKey(detail);
  if (name === "open") part("key-section").hidden = true;
}

const paused = () => part("pause").getAttribute("aria-pressed") === "true";

function follow() {
  if (paused() || document.hidden) stream.stop();
  else stream.start();
}

part("pause").addEventListener("click", () => {
  part("pause").setAttribute("aria-pressed", `${!paused()}`);
  follow();
});
document.addEventListener("visibilitychange", follow); // no events while the page is hidden

// --- the key

function requestKey(detail) {
  part("key-section").hidden = false;
  if (key()) setText(part("key-title"), `API key: ${detail}`);
  part("key").focus();
}

part("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, part("key").value.trim());
  part("key").value = "";
  part("key-section").hidden = true;
  stream.restart();
});

part("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  stream.restart();
});

follow();
