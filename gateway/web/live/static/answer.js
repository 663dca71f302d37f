// What came back for one request: the prediction, its timeline, and the batch it rode in.

import { CLOSED, counted, number, ordinal, PARTS, percent } from "./words.js";
import { facts, rows, setText } from "./tables.js";

const MAX_SHOWN = 1500; // characters of an answer that is no list of classes

const part = (id) => document.getElementById(id);

// The one sentence that is read aloud.
export function say(text, isError = false) {
  setText(part("said"), text);
  part("said").classList.toggle("error", isError);
}

export function clearAnswer() {
  part("answer").hidden = true;
}

export function showAnswer(answer) {
  const { batch, timing_ms: ms } = answer;
  const best = answer.predictions?.[0]?.[0];
  const what = best ? `${best.label}, ${percent(Number(best.probability))}.` : "Answered.";
  say(`${what} It took ${number(ms.total)} ms, in a batch of ${counted(batch.rows, "row")}.`);
  part("prediction").replaceChildren(...prediction(answer));
  timeline(ms);
  facts(part("batch"), [
    ["Batch", batch.id],
    ["Size", `${counted(batch.rows, "row")} of ${counted(batch.requests, "request")}`],
    ["Its place", `${ordinal(batch.position)} of ${batch.requests}`],
    ["Closed", `${batch.closed}: ${CLOSED.find(([reason]) => reason === batch.closed)?.[1] ?? ""}`],
    ["Worker", batch.worker],
    ["Request", answer.request_id],
  ]);
  part("answer").hidden = false;
}

function prediction(answer) {
  if (!answer.predictions) {
    const pre = document.createElement("pre");
    pre.tabIndex = 0; // it scrolls
    const text = JSON.stringify(answer.values ?? answer.outputs);
    pre.textContent = text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)} …` : text;
    return [pre];
  }
  return answer.predictions.map((guesses) => {
    const list = document.createElement("ol");
    list.className = "guesses";
    for (const { label, probability } of guesses) {
      const entry = list.appendChild(document.createElement("li"));
      const share = Number(probability); // "NaN" is text
      const bar = document.createElement("i");
      bar.style.width = `${(share || 0) * 100}%`;
      entry.append(span(label), span(Number.isNaN(share) ? "NaN" : percent(share)), bar);
    }
    return list;
  });
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
