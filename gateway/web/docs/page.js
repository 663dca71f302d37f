// Fetches /openapi.json with the API key, if the server has keys, and shows it in the system's color scheme.

const KEY = "smartbatch-api-key"; // in this tab's sessionStorage, shared with the live page
const BASE = new URL("..", import.meta.url);

const part = (id) => document.getElementById(id);
const viewer = document.querySelector("rapi-doc");

const savedKey = () => sessionStorage.getItem(KEY) ?? "";

async function load() {
  const key = savedKey();
  let response, body;
  try {
    response = await fetch(new URL("openapi.json", BASE), { headers: headersWith(key) });
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
  if (key && body.security) viewer.setApiKey("bearer", "YOUR_API_KEY"); // which the page shows, in curl commands
}

function headersWith(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
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

// Send the key with each request that is tried. RapiDoc doesn't get it: it would show it.
viewer.addEventListener("before-try", ({ detail: { request } }) => {
  for (const [name, value] of Object.entries(headersWith(savedKey()))) request.headers.set(name, value);
});

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => viewer.setAttribute("theme", dark.matches ? "dark" : "light");
dark.addEventListener("change", follow);
follow();
load();
