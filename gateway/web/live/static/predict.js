// The form that sends requests, with the inputs that the model takes: an image, text, JSON, or any file.

import { embeds, EXAMPLES, nearest } from "./nearest.js";
import { clearResult, showResult, showStatus } from "./result.js";
import { headersWith } from "./stream.js";
import { setText } from "./tables.js";
import { nameOf, versionOf } from "./texts.js";

const PREDICT = new URL("../predict", import.meta.url);
const OFFER = new URL("models", import.meta.url);

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
    const { type, label, text, note } = inputOf(info);
    this._type = type;
    this._embeds = embeds(info);
    part("text").value = text;
    setText(part("text-label"), label);
    setText(part("text-note"), note);
    if (type === JSON_TYPE) this._showExample(offered);
  }

  // Fill in a body that the model accepts, unless another model was selected meanwhile, or it is not short.
  async _showExample(offered) {
    const models = await fetchOffer(this._key()).then((found) => found?.models, () => null);
    const example = models?.[this._model()]?.example;
    if (offered === this._offered && example && !part("text").value) part("text").value = JSON.stringify(example);
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
    if (this._embeds) return this._send(JSON.stringify({ data: [text, ...EXAMPLES] }), JSON_TYPE, "the text", nearest);
    await this._send(text, this._type, this._type === JSON_TYPE ? "the JSON" : "the text");
  }

  // `near` makes what is shown of a response that isn't shown as it is.
  async _send(content, type, name, near = null) {
    this._request?.abort();
    const request = (this._request = new AbortController());
    clearResult();
    showStatus(`Sending ${name} …`);
    const target = new URL(PREDICT);
    if (this._model()) {
      target.searchParams.set("model", nameOf(this._model()));
      target.searchParams.set("version", versionOf(this._model()));
    }
    try {
      const headers = { ...headersWith(this._key()), "Content-Type": type, Accept: "application/json" };
      const response = await fetch(target, { method: "POST", body: content, headers, signal: request.signal });
      const body = await response.json().catch(() => ({ title: response.statusText, detail: "the response is not JSON" }));
      if (response.ok && body.timing_ms) return showResult(body, near?.(body));
      showStatus(`${response.status} ${body.title}: ${body.detail}`, true);
      if (response.status === 401) this._needsKey(body.detail);
    } catch (error) {
      if (!request.signal.aborted) showStatus(`No response: ${error.message}`, true);
    }
  }
}

const JSON_TYPE = "application/json";
const TEXT = { type: "text/plain", label: "Text" };

// What to enter: its media type, a text to begin with, and a description.
function inputOf(info) {
  const { input, inputs } = info;
  if (inputs?.length) {
    const names = inputs.map(({ name, kinds }) => `${name} (${kinds.join(" or ")})`).join(", ");
    return json(`The inputs by name: ${names}. Images and raw bytes are in base64.`);
  }
  if (embeds(info)) return { ...TEXT, text: "a kitten", note: "It is embedded together with a few examples, to show which are nearest." };
  if (input.kinds.includes("text")) return { ...TEXT, text: "a text", note: "One text, as one row." };
  if (input.kinds.includes("raw")) return { ...TEXT, text: "hello", note: "Any text, as one row." };
  const { dtype, shape } = input;
  if (shape) return json(`A list of rows: ${dtype ?? "numbers"} of shape [${shape}] each (-1: any length).`);
  return json(`A list of rows${dtype ? `, ${dtype}` : ""} in the shape that the model accepts.`);
}

function json(note) {
  return { type: JSON_TYPE, label: "JSON", text: "", note };
}

// Return what the models take, by name; null if the key may not run models.
export async function fetchOffer(key, signal) {
  const response = await fetch(OFFER, { headers: headersWith(key), signal, cache: "no-store" });
  return response.ok ? response.json() : null;
}
