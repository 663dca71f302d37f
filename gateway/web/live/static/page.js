// Shows each event of the stream: one model, or an overview of all.

import { Charts } from "./charts.js";
import { History } from "./history.js";
import { fetchOffer, PredictForm } from "./predict.js";
import { problems, worstFirst } from "./problems.js";
import { Stream } from "./stream.js";
import { bars, fields, list, rows, setText } from "./tables.js";
import { CLOSED, counted, nameOf, number, OUTCOMES, percent, readyOf, versionOf } from "./texts.js";
import { Versions } from "./versions.js";

const KEY = "smartbatch-api-key"; // in this tab's sessionStorage
const LINK = "#model="; // and a model's ID: the part of the address that selects it

const part = (id) => document.getElementById(id);
const key = () => sessionStorage.getItem(KEY) ?? "";

let selected = ""; // the ID of the model that is shown; empty for all
let newest = null; // the last event
let readable = true; // whether the key may read statistics

const history = new History();
const charts = new Charts(part("charts"));
const versions = new Versions(part("versions"), part("version-charts"), (id) => `${LINK}${id}`);
const form = new PredictForm(key, () => selected, requestKey);
const stream = new Stream(key, { event, state, offer });

function event(now) {
  newest = now;
  readable = true;
  if (now.history) history.replace(now.history);
  if (now.broker === "down") state("lost", "Redis is unavailable; showing the last known values");
  else state("open");
  history.add(now.models);
  if (!select(now.history) && selected) charts.update();
  show();
}

// A key that may not read statistics sees the form alone. Returns whether there is a model to offer: there is none before the first
// worker has announced its model.
async function offer(signal) {
  const offered = await fetchOffer(key(), signal);
  if (!offered) return false;
  const { default: first, models } = offered;
  const infos = Object.entries(models).map(([name, info]) => [name, { info }]);
  newest = { default: first, predict: "here", models: Object.fromEntries(infos) };
  readable = false;
  select();
  show();
  return infos.length > 0;
}

// Select the model of the address, the only one (of several versions the default), or all. Returns whether the charts
// were drawn: if the selection has changed, or its history.
function select(replaced) {
  const names = Object.keys(newest.models);
  const address = location.hash.startsWith(LINK) ? location.hash.slice(LINK.length) : "";
  const one = new Set(names.map(nameOf)).size === 1 || !readable;
  const next = names.includes(address) ? address : !one ? "" : names.includes(newest.default) ? newest.default : (names[0] ?? "");
  options(one ? names : ["", ...names]);
  part("model").value = next;
  if (next === selected && !replaced) return false;
  selected = next;
  charts.show(history.of(selected));
  return true;
}

function options(names) {
  const picker = part("model");
  if ([...picker.options].map((option) => option.value).join() !== names.join()) {
    picker.replaceChildren(...names.map((name) => new Option(name || "All models", name)));
  }
}

function show() {
  const { models, predict } = newest;
  const model = models[selected];
  part("overview").hidden = !readable || !!selected || !Object.keys(models).length;
  for (const section of document.querySelectorAll(".statistics")) section.hidden = !readable || !model;
  part("try").hidden = !model || predict === "forbidden";
  form.offer(model?.info ?? null, predict);
  if (!readable) return;
  const ids = allVersions(selected);
  banner(selected ? ids : Object.keys(models));
  part("versions-section").hidden = ids.length < 2;
  setText(part("now-title"), ids.length < 2 ? "Now" : `Now, version ${versionOf(selected)}`);
  if (ids.length > 1) {
    setText(part("versions-title"), `Versions of ${nameOf(selected)}`);
    versions.show(ids, selected, models, history);
  }
  if (model) showModel(model);
}

// The IDs of a model's versions, also of that one, in order.
function allVersions(id) {
  const ids = Object.keys(newest.models).filter((each) => nameOf(each) === nameOf(id));
  return ids.sort((a, b) => versionOf(a) - versionOf(b));
}

// Show what is wrong with these models, with their names if there are several; and all models, if none is selected.
function banner(ids) {
  const { models } = newest;
  const isReady = (id) => Object.values(models[id].stats.workers).some(({ state }) => state === "ready");
  const found = ids.map((id) => [id, problems(models[id], allVersions(id).some(isReady))]);
  const all = found.flatMap(([name, each]) => each.map((problem) => ({ name, ...problem }))).sort(worstFirst);
  const items = [...new Set(all.map(({ text }) => text))].map((text) => {
    const same = all.filter((problem) => problem.text === text); // several models can have the same problem
    const names = same.map(({ name }) => name).join(", ");
    return { level: same[0].level, text: ids.length === 1 ? text : `${names}: ${text}` };
  });
  list(part("banner"), newest.broker === "down" ? [REDIS_DOWN] : items);
  if (selected) return;
  const states = found.map(([, each]) => each[0] ?? { level: "good", state: "ready" });
  const cells = ([name, { point, stats }], n) => [
    { text: name, href: `${LINK}${name}` },
    { text: states[n].state, level: states[n].level },
    number(point.answered),
    number(point.rejected),
    number(point.failed),
    number(point.client_errors),
    number(point.p99),
    number(point.waiting),
    readyOf(stats.workers),
  ];
  rows(part("models"), ids.map((id, n) => cells([id, models[id]], n)));
}

const REDIS_DOWN = { level: "bad", text: "Redis is unavailable, so requests are rejected: broker_unavailable. These are the last known values." };

function showModel({ stats, last, info, point }) {
  tiles(stats, point);
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
  padding(last);
  partitions(stats.partitions ?? {});
  workers(stats, last);
}

// What padding cost, of a model whose rows have sizes, and how well the forwards were predicted.
function padding({ padding_ratio, forward_s, predicted_s }) {
  part("sizes").hidden = !padding_ratio;
  if (!padding_ratio) return;
  const times = `forwards took ${number(forward_s)} s, predicted ${number(predicted_s)} s`;
  setText(part("sizes"), `Padded size ${number(padding_ratio)} × the real one; ${times}.`);
}

// JSON has no infinity; the server writes "inf".
function name(size) {
  return Number.isFinite(size) ? `${size}` : "inf";
}

function tiles({ queue, workers }, point) {
  fields(part("tiles"), [
    ["Answered / s", number(point.answered)],
    ["Rejected / s", number(point.rejected)],
    ["Failed / s", number(point.failed)],
    ["Client errors / s", number(point.client_errors)],
    ["Workers ready", readyOf(workers)],
    ["Dead letters", number(queue.dead_letters)],
    ["p50, ms", number(point.p50)],
    ["p95, ms", number(point.p95)],
    ["p99, ms", number(point.p99)],
    ["Waiting", number(queue.waiting)],
    ["Running", number(queue.running)],
    ["Oldest wait, s", number(queue.oldest_wait_s)],
  ]);
}

// Several partitions by number; of a model with one, nothing.
function partitions(byNumber) {
  const cells = ([name, { reachable, waiting, running, oldest_wait_s, workers }]) => [
    name,
    { text: reachable ? "up" : "away", level: reachable ? "good" : "warn" },
    ...[waiting, running, oldest_wait_s, workers].map((value) => (reachable ? number(value) : "–")),
  ];
  rows(part("partitions"), Object.entries(byNumber).map(cells));
  part("partitions-section").hidden = !Object.keys(byNumber).length;
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

part("model").addEventListener("change", () => {
  location.hash = part("model").value && `${LINK}${part("model").value}`;
});

addEventListener("hashchange", () => {
  if (!newest || (location.hash && !location.hash.startsWith(LINK))) return; // another anchor of the page
  select();
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
  part("main").classList.toggle("stale", name === "lost" || name === "rejected");
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
  newest = { predict: "forbidden", models: {} };
  select();
  show();
  stream.restart();
});

follow();
