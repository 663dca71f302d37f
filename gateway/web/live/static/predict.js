// The form that sends requests, with the inputs that the model takes: an image, text, JSON, or any file.

import { clearResult, showResult, showStatus } from "./result.js";
import { headersWith } from "./stream.js";
import { setText } from "./tables.js";

const PREDICT = new URL("../predict", import.meta.url);
const MAX_EXAMPLE = 4096; // characters
const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mNoaGgAAAMEAYF1LgG8AAAAAElFTkSuQmCC"; // a PNG of one pixel

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
  }

  // Show the inputs that fit a model. `info` is null before the model is announced.
  offer(info, predict) {
    const offered = JSON.stringify([info?.input, info?.inputs, predict]);
    if (offered === this._offered) return;
    this._offered = offered;
    const here = predict === "here";
    const kinds = info?.input.kinds ?? [];
    const image = kinds.includes("image");
    const raw = kinds.includes("raw");
    part("elsewhere").hidden = predict !== "elsewhere";
    part("unknown").hidden = !here || info !== null;
    part("photo-box").hidden = !here || !(image || raw);
    part("text-box").hidden = !here || !info || image;
    part("photo").accept = image ? "image/*" : "";
    setText(part("photo-choose"), image ? "Choose an image" : "Choose a file");
    if (!info) return;
    const { type, label, text, note } = example(info);
    this._type = type;
    part("text").value = text;
    setText(part("text-label"), label);
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
    await this._send(text, this._type, this._type === JSON_TYPE ? "the JSON" : "the text");
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

const JSON_TYPE = "application/json";
const TEXT = { type: "text/plain", label: "Text" };

// An input that the model accepts, and a description of it.
function example({ input, inputs }) {
  if (inputs?.length) {
    const value = Object.fromEntries(inputs.map((each) => [each.name, valueOf(each)]));
    const names = inputs.map(({ name, kinds }) => `${name} (${kinds.join(" or ")})`).join(", ");
    return json({ inputs: value }, `The inputs by name: ${names}. Images and raw bytes are in base64.`);
  }
  if (input.kinds.includes("text")) return { ...TEXT, text: "a text", note: "One text, as one row." };
  if (input.kinds.includes("raw")) return { ...TEXT, text: "hello", note: "Any text, as one row." };
  const { dtype, shape } = input;
  const note = shape
    ? `A list of rows: ${dtype ?? "numbers"} of shape [${shape}] each (-1: any length).`
    : `A list of rows${dtype ? `, ${dtype}` : ""} in the shape that the model accepts.`;
  return json({ data: [valueOf(input)] }, note);
}

function json(value, note) {
  const text = JSON.stringify(value);
  const short = text.length <= MAX_EXAMPLE;
  return { type: JSON_TYPE, label: "JSON", text: short ? text : "", note: short ? note : `${note} An example would be too long.` };
}

function valueOf({ kinds, dtype, shape }) {
  if (kinds.includes("text")) return "a text";
  if (kinds.includes("tensor")) return zeros((shape ?? [2]).map((length) => (length < 0 ? 1 : length)), dtype === "bool" ? false : 0);
  return kinds.includes("image") ? PIXEL : "aGVsbG8=";
}

function zeros([length, ...rest], zero) {
  return length === undefined ? zero : Array.from({ length }, () => zeros(rest, zero));
}
