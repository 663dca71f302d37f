// The box that asks: a photo where the model takes photos, JSON or text where it doesn't.

import { clearAnswer, say, showAnswer } from "./answer.js";
import { headersWith } from "./stream.js";
import { setText } from "./tables.js";

const PREDICT = new URL("../predict", import.meta.url);
const MAX_EXAMPLE = 64; // numbers of a row that is written out as an example

const part = (id) => document.getElementById(id);

export class AskBox {
  // `key()` and `model()` are asked when something is sent; `needsKey()` is called when one is missing.
  constructor(key, model, needsKey) {
    this._key = key;
    this._model = model;
    this._needsKey = needsKey;
    this._offered = "";
    this._asking = null;
    part("photo").addEventListener("change", () => this._photo(part("photo").files[0]));
    part("text-box").addEventListener("submit", (event) => (event.preventDefault(), this._text()));
    document.addEventListener("paste", (event) => this._pasted(event));
    const box = part("photo-box");
    for (const name of ["dragenter", "dragover"]) {
      box.addEventListener(name, (event) => (event.preventDefault(), box.classList.add("over")));
    }
    for (const name of ["dragleave", "drop"]) box.addEventListener(name, () => box.classList.remove("over"));
    box.addEventListener("drop", (event) => (event.preventDefault(), this._photo(event.dataTransfer.files[0])));
    this.offer(null, true);
  }

  // Show the boxes that fit a model; `info` is null when nobody has announced it, or nobody may say.
  offer(info, predicts) {
    const offered = JSON.stringify([info, predicts]);
    if (offered === this._offered) return;
    this._offered = offered;
    const kinds = info?.input.kinds ?? ["image", "raw"];
    part("elsewhere").hidden = predicts;
    part("photo-box").hidden = !predicts || !(kinds.includes("image") || kinds.includes("raw"));
    part("text-box").hidden = !predicts || (kinds.includes("image") && info !== null);
    const [text, note] = example(info?.input ?? { kinds });
    part("text").value = text;
    setText(part("text-note"), note);
  }

  _pasted(event) {
    const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (!file || part("photo-box").hidden) return;
    event.preventDefault();
    this._photo(file);
  }

  async _photo(file) {
    if (!file) return;
    const shown = part("photo-shown");
    URL.revokeObjectURL(shown.src);
    shown.src = URL.createObjectURL(file);
    shown.alt = `The photo that was sent: ${file.name}`;
    shown.hidden = !file.type.startsWith("image/");
    part("photo").value = ""; // so that choosing the same file again sends it again
    await this._ask(file, file.type || "application/octet-stream", file.name);
  }

  async _text() {
    const text = part("text").value;
    await this._ask(text, isJson(text) ? "application/json" : "text/plain", "the text");
  }

  async _ask(body, type, name) {
    this._asking?.abort();
    const asking = (this._asking = new AbortController());
    clearAnswer();
    say(`Asking about ${name} …`);
    const target = new URL(PREDICT);
    if (this._model()) target.searchParams.set("model", this._model());
    try {
      const headers = { ...headersWith(this._key()), "Content-Type": type, Accept: "application/json" };
      const response = await fetch(target, { method: "POST", body, headers, signal: asking.signal });
      const answer = await response.json().catch(() => ({ title: response.statusText, detail: "no JSON came" }));
      if (response.ok && answer.timing_ms) return showAnswer(answer);
      say(`${response.status} ${answer.title}: ${answer.detail}`, true);
      if (response.status === 401) this._needsKey(answer.detail);
    } catch (error) {
      if (!asking.signal.aborted) say(`No answer: ${error.message}`, true);
    }
  }
}

function isJson(text) {
  try {
    return typeof JSON.parse(text) === "object";
  } catch {
    return false;
  }
}

// Something to start from, and what it is.
function example({ kinds, dtype, shape }) {
  if (kinds.includes("text")) return ['{"data": ["a text", "another one"]}', "A list of texts; each is one row."];
  if (!kinds.includes("tensor")) return ["hello", "Any text; it is one row."];
  if (!shape) return ['{"data": [[0, 0]]}', `A list of rows${dtype ? `, ${dtype}` : ""}; each of the model's own shape.`];
  const row = shape.map((length) => (length < 0 ? 1 : length));
  const note = `A list of rows: ${dtype ?? "numbers"} of shape [${shape}] each (-1: any length).`;
  const few = row.reduce((product, length) => product * length, 1) <= MAX_EXAMPLE;
  return [few ? JSON.stringify({ data: [zeros(row)] }) : "", note];
}

function zeros([length, ...rest]) {
  return length === undefined ? 0 : Array.from({ length }, () => zeros(rest));
}
