// What is wrong with a model now, as a list of {level, state, text}, the worst first; `state` is a short text. Client
// errors are a note: they are not the server's fault.

import { ADVICE, CLIENT_ERRORS, wholePercent } from "./texts.js";

const LEVELS = ["bad", "warn", "note"];
const FEW = 0.01; // a smaller share of the requests is not shown
const MANY = 0.05; // and from this share on it is bad, as for the alert SmartBatchRejections
const CANCELLED = ["client_gone", "cancelled_by_operator"];

// `served`: whether any version of the model has a ready worker.
export function problems({ stats: { outcomes, errors, workers, partitions = {} } }, served) {
  const found = [...withoutWorker(workers, served), ...partitionsAway(partitions)];
  const total = sum(outcomes);
  const wrong = sum(outcomes, CLIENT_ERRORS);
  const codes = Object.entries(errors).sort(([, a], [, b]) => b - a);
  for (const [code, number] of codes) {
    const share = number / (total - wrong);
    if (!(code in ADVICE) || share < FEW) continue;
    const [verb, advice] = ADVICE[code];
    const level = share < MANY || verb === "limited" ? "warn" : "bad";
    const state = `${wholePercent(share)} ${verb}`;
    found.push({ level, state, text: `${state}: ${code}. ${advice}` });
  }
  if (wrong / total >= MANY) {
    const names = codes.map(([code]) => code).filter((code) => !(code in ADVICE) && !CANCELLED.includes(code));
    const state = `${wholePercent(wrong / total)} client errors`;
    found.push({
      level: "note",
      state,
      text: `${state}: ${names.join(", ")}. These requests are wrong; the server is not overloaded by them.`,
    });
  }
  return found.sort(worstFirst);
}

export function worstFirst(a, b) {
  return LEVELS.indexOf(a.level) - LEVELS.indexOf(b.level);
}

function withoutWorker(workers, served) {
  const states = Object.values(workers).map((report) => report.state);
  if (states.includes("ready")) return [];
  const soon = states.some((state) => state === "loading" || state === "warming");
  const there = [...new Set(states)].map((state) => `${states.filter((each) => each === state).length} ${state}`);
  const none = `No worker is ready${there.length ? ` (${there.join(", ")})` : ""}`;
  if (served) return [{ level: "note", state: "no worker ready", text: `${none}. Requests that name no version get another one.` }];
  const text = `${none}. Requests wait until one is`;
  return [{ level: soon ? "warn" : "bad", state: "no worker ready", text: soon ? `${text}.` : `${text}: start smartbatch worker.` }];
}

function partitionsAway(partitions) {
  const away = Object.keys(partitions).filter((number) => !partitions[number].reachable);
  if (!away.length) return [];
  const state = away.length === 1 ? `partition ${away[0]} away` : `partitions ${away.join(", ")} away`;
  return [{ level: "warn", state, text: `The broker of partition ${away.join(", ")} does not answer; the others take its requests.` }];
}

function sum(numbers, names = Object.keys(numbers)) {
  return names.reduce((total, name) => total + (numbers[name] ?? 0), 0);
}
