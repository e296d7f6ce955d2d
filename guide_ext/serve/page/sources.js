// SPDX-License-Identifier: MIT
// @ts-check
// Where a token comes from: what the row that wrote it attended to, by layer and head.

import { call, inWords, isStop } from "./api.js";
import { byId, complain, input, make, tell } from "./dom.js";
import { draw, lookThrough, onPick, redraw, shown } from "./influence.js";
import * as requests from "./requests.js";
import { label } from "./tokens.js";
import { number } from "./values.js";

/** @typedef {import("./api.js").About} About */
/** @typedef {import("./influence.js").Name} Name */
/** @typedef {import("./influence.js").Part} Part */
/** @typedef {import("./influence.js").View} View */
/** @typedef {import("./requests.js").Prompt} Prompt */
/** @typedef {(number | null)[]} Row */
/**
 * @typedef {object} Picked
 * @property {Name} name
 * @property {Part} part
 * @property {number} token Counted from the beginning of the prompt.
 * @property {(...layers: number[]) => Promise<any>} ask
 * @property {Row[]} mean Of the heads, [layer][token].
 * @property {Map<number, Row[]>} heads [head][token] of the layers that were asked for.
 */

const MOST = 10;
const layer = input("layer"), head = byId("head", HTMLSelectElement), panel = byId("sources", HTMLElement);
const read = byId("read", HTMLDetailsElement);
/** @type {Picked | null} */
let picked = null;
/** @type {AbortController | null} */
let asking = null;
let wasOpen = false;

/**
 * @param {() => {about: About, prompt: Prompt} | null} now What was answered, and by which model.
 */
export function onSources(now) {
  onPick(async (name, part, index) => {
    const known = now();
    if (known) await pick(known.about, known.prompt, name, part, index);
  });
  lookThrough(view);
  layer.addEventListener("input", told);
  head.addEventListener("change", () => { redraw(); told(); });
  byId("sources-close", HTMLButtonElement).addEventListener("click", back);
}

/**
 * @param {About} about
 * @param {Prompt} prompt
 * @param {Name} name
 * @param {Part} part
 * @param {number} index
 */
async function pick(about, prompt, name, part, index) {
  const { prompt: before, runs } = shown(), tokens = runs[name].tokens;
  const token = part === "prompt" ? index : before.length + index;
  complain("sources-error", "");
  /** @type {number[]} */
  const answer = part === "prompt" ? [] : tokens.slice(0, index + 1).flatMap((found) => found.id ?? []);
  if (part === "answer" && answer.length !== index + 1) {
    leave();
    complain("sources-error", "To see where a token of an answer comes from, mark some words and answer with Influence.");
    return;
  }
  asking?.abort();
  const { signal } = asking = new AbortController();
  const ask = (/** @type {number[]} */ ...layers) => call("/v1/guide/sources", requests.sources(
    about, prompt, name === "guided",
    { answer, token, of: part === "prompt" ? "read" : "written", ...(layers.length ? { layers } : {}) }), signal);
  try {
    const found = await ask();
    if (signal.aborted) return;
    if (!picked) wasOpen = read.open;
    picked = { name, part, token, ask, mean: found.mean, heads: new Map() };
    fillHeads(about.heads);
    panel.hidden = false;
    read.open = true;
    const said = part === "prompt" ? `What ${quoted(token)} attends to (${name})` : `Where ${quoted(token)} comes from (${name})`;
    byId("sources-title", HTMLElement).textContent = said;
    draw();
    told();
    tell(`${said}: most from ${quoted(strongest()[0].at)}. Escape shows Influence again.`);
  } catch (error) {
    if (isStop(error)) return;
    leave();
    complain("sources-error", inWords(error));
  }
}

/** @param {number} count */
function fillHeads(count) {
  if (head.options.length === count + 1) return;
  const names = ["mean of all", ...Array.from({ length: count }, (_, at) => String(at + 1))];
  head.replaceChildren(...names.map((name, at) => new Option(name, String(at))));
}

/** @returns {Row | null} What is shown, token by token; null until the server has said it. */
function weights() {
  if (!picked) return null;
  const level = Number(layer.value), one = Number(head.value);
  if (level === 0) {
    const rows = picked.mean;
    return rows[0].map((_, token) => rows.reduce((sum, row) => sum + (row[token] ?? 0), 0) / rows.length);
  }
  return one === 0 ? picked.mean[level - 1] : (picked.heads.get(level - 1)?.[one - 1] ?? null);
}

/** @returns {string} */
function what() {
  const level = Number(layer.value), one = Number(head.value);
  if (level === 0) return "mean of all layers and heads";
  return `layer ${level}, ${one === 0 ? "mean of all heads" : `head ${one}`}`;
}

/** @returns {View | null} */
function view() {
  head.disabled = layer.value === "0";
  if (!picked) return null;
  askForHeads(picked);
  return { name: picked.name, at: picked.token, weights: weights() ?? [], what: what() };
}

/** Ask for the heads of the layer that is shown, unless they are known. @param {Picked} of */
async function askForHeads(of) {
  const level = Number(layer.value) - 1;
  if (level < 0 || head.value === "0" || of.heads.has(level)) return;
  of.heads.set(level, []);
  try {
    of.heads.set(level, (await of.ask(level)).heads[level]);
    if (of === picked) {
      redraw();
      told();
    }
  } catch (error) {
    of.heads.delete(level);
    if (isStop(error)) return;
    head.value = "0";
    complain("sources-error", inWords(error));
  }
}

/** @returns {{at: number, weight: number}[]} */
function strongest() {
  const found = (weights() ?? []).map((weight, at) => ({ at, weight: weight ?? 0 }));
  return found.sort((one, other) => other.weight - one.weight).slice(0, MOST);
}

/** @param {number} at @returns {string} Its text, without spaces around it. */
function quoted(at) {
  const { prompt, runs } = shown();
  const token = at < prompt.length ? prompt[at] : runs[picked?.name ?? "plain"].tokens[at - prompt.length];
  const text = label(token);
  return `“${text.trim() || text}”`;
}

/** Write the list of the strongest. */
function told() {
  if (!picked) return;
  byId("sources-what", HTMLElement).textContent = `Attention, ${what()}`;
  const { prompt } = shown();
  byId("strongest", HTMLElement).replaceChildren(...strongest().map(({ at, weight }) => make("li", "",
    make("span", "", quoted(at)), make("span", "where", at < prompt.length ? `prompt ${at}` : `answer ${at}`),
    make("span", "number", number(weight)))));
}

/** Show Influence again. */
export function leave() {
  asking?.abort();
  asking = null;
  if (!picked) return;
  picked = null;
  panel.hidden = true;
  read.open = wasOpen;
  head.value = "0";
  draw();
}

function back() {
  const here = document.querySelector(".tok.picked");
  const isIn = panel.contains(document.activeElement);
  leave();
  // Whoever was in the panel, which is gone, goes back to the token; whoever reads on stays there.
  if (isIn && here instanceof HTMLElement && here.checkVisibility()) here.focus();
  tell("Colours show Influence again.");
}

/** @returns {boolean} Whether there was something to leave. */
export function escape() {
  if (!picked) return false;
  back();
  return true;
}
