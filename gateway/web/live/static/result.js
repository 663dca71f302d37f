// The response to one request: the prediction, the time of each part, and the batch.

import { CLOSED, counted, number, ordinal, PARTS, percent } from "./texts.js";
import { fields, rows, setText } from "./tables.js";

const MAX_SHOWN = 1500; // characters of a result that is not a list of classes

const part = (id) => document.getElementById(id);

// The status line, which screen readers read aloud.
export function showStatus(text, isError = false) {
  setText(part("status"), text);
  part("status").classList.toggle("error", isError);
}

export function clearResult() {
  part("result").hidden = true;
}

// `near` has what is shown in place of the result: [text, cosine] each, the nearest first.
export function showResult(response, near = null) {
  const { batch, timing_ms: ms } = response;
  const best = response.predictions?.[0]?.[0];
  const classes = best ? `${best.label}, ${percent(Number(best.probability))}.` : "Done.";
  const what = near ? `Nearest: ${near[0][0]}` : classes;
  showStatus(`${what} ${number(ms.total)} ms, in a batch of ${counted(batch.rows, "row")}.`);
  part("prediction").replaceChildren(...(near ? [bars(near.map(([text, cosine]) => [text, cosine.toFixed(2), cosine]))] : prediction(response)));
  timeline(ms);
  fields(part("batch"), [
    ["Batch", batch.id],
    ["Size", `${counted(batch.rows, "row")} of ${counted(batch.requests, "request")}`],
    ["Position", `${ordinal(batch.position)} of ${batch.requests}`],
    ["Close reason", `${batch.closed}: ${CLOSED.find(([reason]) => reason === batch.closed)?.[1] ?? ""}`],
    ["Worker", batch.worker],
    ["Request", response.request_id],
  ]);
  part("result").hidden = false;
}

function prediction(response) {
  if (!response.predictions) {
    const pre = document.createElement("pre");
    pre.tabIndex = 0; // it scrolls
    const text = JSON.stringify(response.values ?? response.outputs);
    pre.textContent = text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)} …` : text;
    return [pre];
  }
  return response.predictions.map((classes) =>
    bars(
      classes.map(({ label, probability }) => {
        const share = Number(probability); // "NaN" comes as a string
        return [label, Number.isNaN(share) ? "NaN" : percent(share), share];
      }),
    ),
  );
}

// A list of [label, text, share]; the share is shown as a bar.
function bars(entries) {
  const list = document.createElement("ol");
  list.className = "classes";
  for (const [label, text, share] of entries) {
    const entry = list.appendChild(document.createElement("li"));
    const bar = document.createElement("i");
    bar.style.width = `${Math.max(0, share || 0) * 100}%`;
    entry.append(span(label), span(text), bar);
  }
  return list;
}

function timeline(ms) {
  const there = PARTS.filter(([name]) => ms[name] !== undefined);
  part("timeline").replaceChildren(
    ...there.map(([name, label]) => {
      const piece = document.createElement("span");
      piece.style.flexGrow = ms[name];
      piece.style.background = `var(--${name.replace("_", "-")})`;
      piece.title = `${label}: ${number(ms[name])} ms`;
      return piece;
    }),
  );
  part("timeline").setAttribute("aria-label", there.map(([name, label]) => `${label} ${number(ms[name])} ms`).join(", "));
  const texts = there.map(([name, label, what]) => [label, number(ms[name]), what]);
  rows(part("timeline-table"), [...texts, ["Total", number(ms.total), "in the server"]]);
  there.forEach(([name], n) => {
    part("timeline-table").tBodies[0].rows[n].cells[0].style.setProperty("--swatch", `var(--${name.replace("_", "-")})`);
  });
  part("timeline-table").tBodies[0].lastElementChild.cells[0].style.removeProperty("--swatch");
}

function span(text) {
  const element = document.createElement("span");
  element.textContent = text;
  return element;
}
