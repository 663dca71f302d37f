// Fetches /openapi.json with the API key, if the server has keys, and shows it in the system's color scheme.

const KEY = "smartbatch-api-key"; // in this tab's sessionStorage, shared with the live page
const BASE = new URL("..", import.meta.url);

const part = (id) => document.getElementById(id);
const viewer = document.querySelector("rapi-doc");

async function load() {
  const key = sessionStorage.getItem(KEY) ?? "";
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let response, body;
  try {
    response = await fetch(new URL("openapi.json", BASE), { headers });
    body = await response.json();
  } catch (error) {
    return say(`No response: ${error.message}`);
  }
  if (response.status === 401) {
    part("key-form").hidden = false;
    part("key").focus();
    return say(key ? body.detail : "");
  }
  if (!response.ok) return say(`${response.status} ${body.title}: ${body.detail}`);
  part("key-form").hidden = true;
  part("forget").hidden = !key;
  say("");
  await customElements.whenDefined("rapi-doc");
  viewer.hidden = false;
  viewer.setAttribute("server-url", BASE.href.replace(/\/$/, ""));
  await viewer.loadSpec(body);
  if (key && body.components.securitySchemes) viewer.setApiKey("bearer", key); // for the requests that are tried
}

function say(text) {
  part("status").textContent = text;
}

part("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, part("key").value.trim());
  part("key").value = "";
  load();
});

part("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  location.reload();
});

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => viewer.setAttribute("theme", dark.matches ? "dark" : "light");
dark.addEventListener("change", follow);
follow();
load();
