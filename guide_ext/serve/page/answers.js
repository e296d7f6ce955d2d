// SPDX-License-Identifier: MIT
// @ts-check
// The plain and the guided answer, side by side, and what Influence the marks have in both.

import { call, events, inWords, isStop } from "./api.js";
import { byId, complain, tell } from "./dom.js";
import * as influence from "./influence.js";
import { answer, measured, ranged, route } from "./requests.js";

/** @typedef {import("./api.js").About} About */
/** @typedef {import("./requests.js").Prompt} Prompt */
/** @typedef {import("./requests.js").Sampling} Sampling */
/** @typedef {import("./influence.js").Name} Name */
/** @typedef {import("./influence.js").Token} Token */
/** @typedef {{text: string, reason: string}} Answer */
/**
 * @typedef {object} Found What one press of the button has brought.
 * @property {Prompt} prompt
 * @property {Sampling} sampling
 * @property {Partial<Record<Name, Answer>>} answers
 * @property {any} record Of Influence; null where none was measured.
 */

/** @type {Record<string, string>} */
const ENDS = {
  stop: "complete", length: "cut at the most tokens", stopped: "stopped by you",
};

/**
 * Read the pieces of one stream.
 * @param {About} about
 * @param {Prompt} prompt
 * @param {Sampling} sampling
 * @param {boolean} isGuided
 * @param {AbortSignal} signal
 * @param {(tokens: Token[]) => void} take
 * @returns {Promise<string>} Why the answer ended.
 */
export async function stream(about, prompt, sampling, isGuided, signal, take) {
  let reason = "";
  for await (const event of events(route(about), answer(about, prompt, sampling, isGuided), signal)) {
    for (const choice of event.choices) {
      const tokens = piece(choice);
      if (tokens.length) take(tokens);
      reason = choice.finish_reason ?? reason;
    }
  }
  return reason;
}

/** @param {any} choice @returns {Token[]} */
function piece(choice) {
  const text = choice.delta ? (choice.delta.content ?? "") : choice.text, found = choice.logprobs;
  /** @type {Token[]} */
  const tokens = found?.content
    ? found.content.map((/** @type {any} */ one) => ({ text: one.token, logprob: one.logprob }))
    : (found?.tokens ?? []).map((/** @type {string} */ one, /** @type {number} */ at) => (
      { text: one, logprob: found.token_logprobs[at] }));
  // Several tokens may share a character, and then only their text together can be shown.
  if (tokens.map((one) => one.text).join("") === text) return tokens;
  return text ? [{ text, count: tokens.length || 1 }] : [];
}

/**
 * Ask for both answers; with marks and `wantsInfluence`, each token comes with its Influence.
 * @param {About} about
 * @param {Prompt} prompt
 * @param {Sampling} sampling
 * @param {boolean} wantsInfluence
 * @param {AbortSignal} signal
 * @returns {Promise<Found>}
 */
export async function ask(about, prompt, sampling, wantsInfluence, signal) {
  /** @type {Found} */
  const found = { prompt, sampling, answers: {}, record: null };
  show(null);
  complain("prompt-error", "");
  try {
    influence.setPrompt((await call("/v1/guide/tokens", ranged(about, prompt), signal)).tokens);
  } catch (error) {
    if (!isStop(error)) complain("prompt-error", inWords(error));
    return found;
  }
  byId("answers", HTMLElement).hidden = false;
  tell("Both answers begin.");
  if (wantsInfluence && !prompt.marks.length) {
    byId("influence-note", HTMLElement).textContent = "Mark some words to see how far they reach.";
  }
  const refused = wantsInfluence && prompt.marks.length ? await measure(about, found, signal) : null;
  if (!found.answers.plain) {
    const wrong = await Promise.all(influence.NAMES.map((name) => one(about, found, name, signal)));
    if (wrong[0] && wrong[0] === wrong[1]) {
      // It is the prompt that both were refused for.
      for (const name of influence.NAMES) complain(`error-${name}`, "");
      complain("prompt-error", wrong[0]);
    } else if (refused) {
      complain("influence-error", refused);
    }
  }
  tell(signal.aborted ? "Stopped." : "Both answers are there.");
  return found;
}

/**
 * @param {About} about
 * @param {Found} found
 * @param {Name} name
 * @param {AbortSignal} signal
 * @returns {Promise<string>} What went wrong; empty if nothing did.
 */
async function one(about, found, name, signal) {
  begin(name);
  let reason = "failed", wrong = "";
  try {
    reason = await stream(about, found.prompt, found.sampling, name === "guided", signal, (tokens) => {
      byId(`end-${name}`, HTMLElement).textContent = "";
      influence.addTokens(name, tokens);
    });
  } catch (error) {
    if (isStop(error)) reason = "stopped";
    else complain(`error-${name}`, wrong = inWords(error));
  }
  end(found, name, reason);
  return wrong;
}

/** @param {Name} name */
function begin(name) {
  byId(`answer-${name}`, HTMLElement).parentElement?.classList.add("busy");
  byId(`end-${name}`, HTMLElement).textContent = "waits for the model";
}

/** @param {Found} found @param {Name} name @param {string} reason */
function end(found, name, reason) {
  byId(`answer-${name}`, HTMLElement).parentElement?.classList.remove("busy");
  found.answers[name] = { text: influence.answerText(name), reason };
  tellEnd(name, reason);
}

/** @param {Name} name @param {string} reason */
function tellEnd(name, reason) {
  byId(`end-${name}`, HTMLElement).textContent = ENDS[reason] ?? (reason === "failed" ? "" : reason);
}

/**
 * Stream both answers with their Influence.
 * @param {About} about
 * @param {Found} found
 * @param {AbortSignal} signal
 * @returns {Promise<string | null>} Why not a single token came; the answers may come without it.
 */
async function measure(about, found, signal) {
  const steers = found.prompt.marks.some((mark) => mark.nats !== 0);
  let hasBegun = false;
  for (const name of influence.NAMES) begin(name);
  try {
    const body = measured(about, found.prompt, found.sampling);
    for await (const event of events("/v1/guide/influence", body, signal)) {
      if (event.record) {
        found.record = event.record;
        continue;
      }
      hasBegun = true;
      // Without a mark that steers both answers are the same one.
      for (const name of steers ? [/** @type {Name} */ (event.run)] : influence.NAMES) {
        byId(`end-${name}`, HTMLElement).textContent = "";
        influence.addTokens(name, [event.token]);
        influence.addValues(name, event.values[0]);
        if (event.finish_reason) end(found, name, event.finish_reason);
      }
    }
    byId("influence-note", HTMLElement).textContent = showRecord(found);
    return null;
  } catch (error) {
    const isStopped = isStop(error);
    if (!isStopped && !hasBegun) return inWords(error);
    if (!isStopped) complain("prompt-error", inWords(error));
    for (const name of influence.NAMES) {
      if (!found.answers[name]) end(found, name, isStopped ? "stopped" : "failed");
    }
    return null;
  }
}

/**
 * Show what was measured, whole.
 * @param {Found} found
 * @returns {string} What there is to say about it.
 */
function showRecord(found) {
  const { prompt, runs } = found.record;
  influence.setPrompt(prompt.tokens.map((/** @type {Token} */ token, /** @type {number} */ at) => (
    { ...token, nats: prompt.nats[at], marked: prompt.groups[found.record.groups[0]][at] })));
  for (const name of influence.NAMES) {
    const run = runs.find((/** @type {any} */ one) => one.name === name) ?? runs[0];
    influence.setTokens(name, run.tokens);
    influence.setValues(name, run.values[0]);
  }
  return runs.length === 1 ? "No mark steers: both answers are the plain one." : "";
}

/** Show what was found before, or nothing. @param {Found | null} found */
export function show(found) {
  influence.clear();
  for (const id of ["error-plain", "error-guided", "influence-error"]) complain(id, "");
  byId("influence-note", HTMLElement).textContent = "";
  byId("answers", HTMLElement).hidden = !found;
  for (const name of influence.NAMES) {
    const own = found?.answers[name];
    if (own?.text) influence.addTokens(name, [{ text: own.text }]);
    tellEnd(name, own?.reason ?? "");
  }
  if (found?.record) byId("influence-note", HTMLElement).textContent = showRecord(found);
}
