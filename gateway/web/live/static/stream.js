// The stream of statistics (server-sent events), read with fetch, because EventSource can't send an API key.

const EVENTS = new URL("events", import.meta.url);
const SILENT_MS = 6000; // events come every second; after this long without one the connection is lost
const RETRY_MS = [1000, 2000, 4000, 8000];

// Calls `on.event(event)` for each event, one a second, and `on.state(name, detail)` when events stop: lost, key (missing or invalid),
// forbidden (the key may not read statistics), rejected, stopped. After forbidden, it calls `on.offer(signal)`, and tries again until that
// returns true.
export class Stream {
  constructor(key, on) {
    this._key = key;
    this._on = on;
    this._abort = null;
  }

  start() {
    if (this._abort) return;
    this._abort = new AbortController();
    this._run(this._abort.signal);
  }

  stop() {
    this._abort?.abort();
    this._abort = null;
    this._on.state("stopped");
  }

  restart() {
    this._abort?.abort();
    this._abort = null;
    this.start();
  }

  async _run(signal) {
    for (let failures = 0; !signal.aborted; failures++) {
      let wait = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)] * (1 + Math.random() / 4);
      try {
        const response = await fetch(EVENTS, { headers: headersWith(this._key()), signal, cache: "no-store" });
        if (response.ok) {
          failures = 0;
          await this._read(response.body.getReader(), signal);
          if (!signal.aborted) this._on.state("lost", "the stream ended");
        } else {
          const problem = await response.json().catch(() => ({}));
          if (signal.aborted) return;
          if (response.status === 401) return this._on.state("key", problem.detail);
          if (response.status === 403) {
            failures = 0;
            this._on.state("forbidden", problem.detail);
            if (await this._on.offer(signal)) return;
          } else {
            wait = Math.max(wait, 1000 * Number(response.headers.get("retry-after") || 0));
            this._on.state("rejected", problem.detail || `status ${response.status}`);
          }
        }
      } catch (error) {
        if (!signal.aborted) this._on.state("lost", "the server is unreachable");
      }
      await pause(wait, signal);
    }
  }

  async _read(reader, signal) {
    const decoder = new TextDecoder();
    let text = "";
    while (true) {
      const timer = setTimeout(() => reader.cancel(), SILENT_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(timer));
      if (done || signal.aborted) return;
      text += decoder.decode(value, { stream: true });
      const events = text.split("\n\n");
      text = events.pop();
      for (const event of events) this._on.event(JSON.parse(event.slice("data: ".length)));
    }
  }
}

export function headersWith(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function pause(ms, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
  });
}
