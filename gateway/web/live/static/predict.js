// The form that sends requests: an image for models that accept images, JSON or text for others.

import { clearResult, showResult, showStatus } from "./result.js";
import { headersWith } from "./stream.js";
import { setText } from "./tables.js";

const PREDICT = new URL("../predict", import.meta.url);
const MAX_EXAMPLE = 64; // maximum numbers of a row that is prefilled as an example

const part = (id) => document.getElementById(id);

export class PredictForm {
  // `key()` and `model()` are called for each request; `needsKey()` is called when the API key is missing.
  constructor(key, model, needsKey) {
    this._key = key;
    this._model = model;
    this._needsKey = needsKey;
    this._offered = "";
    this._request = null;
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

  // Show the inputs that fit a model. `info` is null before the model is announced, or if the key may not see it.
  offer(info, predicts) {
    const offered = JSON.stringify([info, predicts]);
    if (offered === this._offered) return;
    this._offered = offered;
    const kinds = info?.input.kinds ?? ["image", "raw"];
    part("elsewhere").hidden = predicts;
    part("photo-box").hidden = !predicts || !(kinds.includes("image") || kinds.includes("raw"));
    part("text-box").hidden = !predicts || (kinds.includes("image") && info !== null);
    const [text, note] = info?.inputs ? exampleOfSeveral(info.inputs) : example(info?.input ?? { kinds });
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
    shown.alt = `The image that was sent: ${file.name}`;
    shown.hidden = !file.type.startsWith("image/");
    part("photo").value = ""; // so that the same file can be chosen again
    await this._send(file, file.type || "application/octet-stream", file.name);
  }

  async _text() {
    const text = part("text").value;
    await this._send(text, isJson(text) ? "application/json" : "text/plain", "the text");
  }

  async _send(content, type, name) {
    this._request?.abort();
    const request = (this._request = new AbortController());
    clearResult();
    showStatus(`Sending ${name} …`);
    const target = new URL(PREDICT);
    if (this._model()) target.searchParams.set("model", this._model());
    try {
      const headers = { ...headersWith(this._key()), "Content-Type": type, Accept: "application/json" };
      const response = await fetch(target, { method: "POST", body: content, headers, signal: request.signal });
      const body = await response.json().catch(() => ({ title: response.statusText, detail: "the response is not JSON" }));
      if (response.ok && body.timing_ms) return showResult(body);
      showStatus(`${response.status} ${body.title}: ${body.detail}`, true);
      if (response.status === 401) this._needsKey(body.detail);
    } catch (error) {
      if (!request.signal.aborted) showStatus(`No response: ${error.message}`, true);
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

// An example input, and a description of it.
function example({ kinds, dtype, shape }) {
  if (kinds.includes("text")) return ['{"data": ["a text", "another one"]}', "A list of texts, one row each."];
  if (!kinds.includes("tensor")) return ["hello", "Any text, as one row."];
  if (!shape) return ['{"data": [[0, 0]]}', `A list of rows${dtype ? `, ${dtype}` : ""} in the shape that the model accepts.`];
  const row = shape.map((length) => (length < 0 ? 1 : length));
  const note = `A list of rows: ${dtype ?? "numbers"} of shape [${shape}] each (-1: any length).`;
  const few = row.reduce((product, length) => product * length, 1) <= MAX_EXAMPLE;
  return [few ? JSON.stringify({ data: [zeros(row)] }) : "", note];
}

// An example of all inputs of a model that takes several.
function exampleOfSeveral(inputs) {
  const value = ({ kinds, shape }) => (kinds.includes("text") ? "a text" : kinds.includes("tensor") ? (shape ? zeros(shape.map((n) => (n < 0 ? 1 : n))) : [0]) : "");
  const text = JSON.stringify({ inputs: Object.fromEntries(inputs.map((input) => [input.name, value(input)])) });
  const names = inputs.map(({ name, kinds }) => `${name} (${kinds.join(" or ")})`).join(", ");
  return [text.length <= 4096 ? text : "", `The inputs by name: ${names}. Images and raw bytes are in base64.`];
}

function zeros([length, ...rest]) {
  return length === undefined ? 0 : Array.from({ length }, () => zeros(rest));
}
