// SPDX-License-Identifier: MIT
// @ts-check
// The plain and the guided answer, side by side, and what Influence the marks have in both.

import { call, events, inWords, isStop } from "./api.js";
import { byId, complain, tell } from "./dom.js";
import * as influence from "./influence.js";
import { answer, ranged, route } from "./requests.js";

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
 * Ask for both answers, and then for Influence.
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
  const wrong = await Promise.all(influence.NAMES.map((name) => one(about, found, name, signal)));
  if (wrong[0] && wrong[0] === wrong[1]) {
    // It is the prompt that both were refused for.
    for (const name of influence.NAMES) complain(`error-${name}`, "");
    complain("prompt-error", wrong[0]);
  }
  const isWhole = influence.NAMES.every((name) => (found.answers[name]?.reason ?? "") in ENDS);
  if (isWhole && wantsInfluence && !signal.aborted) await measure(about, found, signal);
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
  const box = byId(`answer-${name}`, HTMLElement).parentElement;
  box?.classList.add("busy");
  byId(`end-${name}`, HTMLElement).textContent = "waits for the model";
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
  box?.classList.remove("busy");
  found.answers[name] = { text: influence.answerText(name), reason };
  end(name, reason);
  return wrong;
}

/** @param {Name} name @param {string} reason */
function end(name, reason) {
  byId(`end-${name}`, HTMLElement).textContent = ENDS[reason] ?? (reason === "failed" ? "" : reason);
}

/** @param {About} about @param {Found} found @param {AbortSignal} signal */
async function measure(about, found, signal) {
  const note = byId("influence-note", HTMLElement);
  if (!found.prompt.marks.length) {
    note.textContent = "Mark some words to see how far they reach.";
    return;
  }
  if (found.sampling.temperature > 0) {
    note.textContent = "Influence is measured for the likeliest answer: set the temperature to 0.";
    return;
  }
  note.textContent = "Influence is being measured.";
  const body = { ...ranged(about, found.prompt), max_tokens: found.sampling.tokens, stream: true };
  try {
    for await (const event of events("/v1/guide/influence", body, signal)) {
      if (event.record) found.record = event.record;
      else influence.addValues(event.run, event.values[0]);
    }
    note.textContent = showRecord(found).join(" ");
  } catch (error) {
    note.textContent = "";
    if (!isStop(error)) complain("influence-error", inWords(error));
  }
}

/**
 * Show what was measured, and say where it is not what the streams brought.
 * @param {Found} found
 * @returns {string[]}
 */
function showRecord(found) {
  const { prompt, runs } = found.record, notes = [];
  influence.setPrompt(prompt.tokens.map((/** @type {Token} */ token, /** @type {number} */ at) => (
    { ...token, nats: prompt.nats[at], marked: prompt.groups[found.record.groups[0]][at] })));
  for (const run of runs) {
    const streamed = found.answers[/** @type {Name} */ (run.name)];
    influence.setTokens(run.name, run.tokens);
    influence.setValues(run.name, run.values[0]);
    if (streamed && influence.answerText(run.name) !== streamed.text) {
      notes.push(`Measured, the ${run.name} answer came out otherwise than before: two tokens were `
        + "almost equally likely. Shown is the measured one.");
      streamed.text = influence.answerText(run.name);
    }
  }
  if (runs.length === 1) notes.push("No mark steers: Influence is that of the plain answer.");
  return notes;
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
    end(name, own?.reason ?? "");
  }
  if (found?.record) showRecord(found);
}
