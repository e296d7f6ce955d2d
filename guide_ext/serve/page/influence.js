// SPDX-License-Identifier: MIT
// @ts-check
// Texts as tokens, coloured by the Influence of the marks as it arrives.

import { byId, input, make } from "./dom.js";
import { clamp, number, outline, paint, walkable } from "./values.js";

/** @typedef {"plain" | "guided"} Name */
/**
 * @typedef {object} Token
 * @property {string} text What it adds to the text.
 * @property {string} [token] Its name in the vocabulary.
 * @property {boolean} [special]
 * @property {number} [count] Of how many tokens it is, while the server has not said where they end.
 * @property {number} [logprob]
 */
/** @typedef {{text: string, nats: number, marked: boolean} & Token} PromptToken */
/** @typedef {{tokens: Token[], values: (number | null)[][]}} Run Values are [level][token]. */

/** @type {readonly Name[]} */
export const NAMES = ["plain", "guided"];
const layer = input("layer"), oneScale = input("one-scale");
/** @type {PromptToken[]} */
let prompt = [];
/** @type {Record<Name, Run>} */
let runs = { plain: { tokens: [], values: [] }, guided: { tokens: [], values: [] } };
let layers = 1, isDue = false;

/** @param {string} part @param {Name} name */
const place = (part, name) => byId(`${part}-${name}`, HTMLElement);

/** @param {number} count How many layers the model has. */
export function setLayers(count) {
  layers = count;
  layer.max = String(count);
  layer.value = layer.max;
}

/** Begin anew. */
export function clear() {
  prompt = [];
  runs = { plain: { tokens: [], values: [] }, guided: { tokens: [], values: [] } };
  for (const name of NAMES) for (const part of ["prompt", "answer"]) fill(part, name, []);
  byId("bar", HTMLElement).hidden = true;
  byId("readout", HTMLElement).replaceChildren();
}

/** @param {PromptToken[]} tokens */
export function setPrompt(tokens) {
  prompt = tokens;
  for (const name of NAMES) {
    fill("prompt", name, tokens);
    if (name === "guided") {
      [...place("prompt", name).children].forEach((span, at) => {
        span.classList.toggle("steered", tokens[at].nats !== 0);
      });
    }
  }
  redraw();
}

/** @param {Name} name @param {Token[]} tokens That came now. */
export function addTokens(name, tokens) {
  const first = runs[name].tokens.length === 0;
  runs[name].tokens.push(...tokens);
  place("answer", name).append(...tokens.map((token, at) => span(token, first && at === 0)));
  nameText(place("answer", name), `answer, ${name}`);
  redraw();
}

/** @param {Name} name @param {Token[]} tokens Of the whole answer, as they were measured. */
export function setTokens(name, tokens) {
  const before = runs[name].tokens;
  runs[name].tokens = tokens.map((token, at) => (
    before[at]?.text === token.text ? { ...token, logprob: before[at].logprob } : token));
  fill("answer", name, runs[name].tokens);
  redraw();
}

/** @param {Name} name @param {(number | null)[][]} values Of tokens read since, [level][token]. */
export function addValues(name, values) {
  const own = runs[name];
  own.values = values.map((row, level) => [...(own.values[level] ?? []), ...row]);
  byId("bar", HTMLElement).hidden = false;
  redraw();
}

/** @param {Name} name @param {(number | null)[][]} values */
export function setValues(name, values) {
  runs[name].values = values;
  byId("bar", HTMLElement).hidden = false;
  redraw();
}

/** @param {Name} name @returns {string} The answer. */
export function answerText(name) {
  return runs[name].tokens.filter((token) => !token.special).map((token) => token.text).join("");
}

/** @param {string} part @param {Name} name @param {Token[]} tokens */
function fill(part, name, tokens) {
  const text = place(part, name);
  text.replaceChildren(...tokens.map((token, at) => span(token, at === 0)));
  nameText(text, `${part}, ${name}`);
}

/** Only a text with tokens is a list to walk along. @param {HTMLElement} text @param {string} label */
function nameText(text, label) {
  if (text.childElementCount) {
    text.setAttribute("role", "listbox");
    text.setAttribute("aria-orientation", "horizontal");
    text.setAttribute("aria-label", label);
  } else {
    for (const one of ["role", "aria-orientation", "aria-label"]) text.removeAttribute(one);
  }
}

/** @param {Token} token @returns {boolean} Whether it has no text of its own. */
const isRaw = (token) => Boolean(token.special) || !token.text;

/** @param {Token} token @returns {string} */
const label = (token) => (isRaw(token) ? (token.token ?? token.text) : token.text).replaceAll("\n", "↵");

/** @param {Token} token @param {boolean} isStop Whether Tab stops here. */
function span(token, isStop) {
  const found = make("span", "tok");
  if (isRaw(token)) {
    found.classList.add("raw");
    found.append(make("small", "", label(token)));
  } else {
    found.textContent = token.text.replaceAll("\n", "↵\n");
  }
  found.setAttribute("role", "option");
  found.setAttribute("aria-selected", "false");
  found.setAttribute("aria-label", quoted(token));
  found.tabIndex = isStop ? 0 : -1;
  return found;
}

/** @param {Token} token */
const quoted = (token) => (isRaw(token) ? label(token) : `“${label(token)}”`);

function redraw() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    draw();
  });
}

/** @param {number} token */
const isMarked = (token) => Boolean(prompt[token]?.marked);

/** @param {Name} name @param {number} token @returns {number | null} */
const value = (name, token) => runs[name].values[Number(layer.value)]?.[token] ?? null;

/** What the strongest colour stands for; marked tokens begin at 1 and would hide all others. */
function scale() {
  let most = 0;
  for (const name of NAMES) {
    runs[name].values.forEach((row, level) => {
      if (oneScale.checked ? level === 0 : level !== Number(layer.value)) return; // level 0: the marks
      row.forEach((one, token) => { if (!isMarked(token)) most = Math.max(most, one ?? 0); });
    });
  }
  if (most < 1e-9) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  const round = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((one) => one * power >= most * (1 - 1e-9)) ?? 10;
  return Number((round * power).toPrecision(3));
}

function draw() {
  const top = scale();
  byId("layer-name", HTMLElement).textContent = `${layer.value} of ${layers}`;
  byId("top", HTMLElement).textContent = String(top);
  for (const name of NAMES) {
    each("prompt", name, prompt, (found, token, at) => {
      paint(found, quoted(token), value(name, at), top);
      outline(found, at, isMarked);
    });
    let at = prompt.length - 1;
    each("answer", name, runs[name].tokens, (found, token) => {
      at += token.count ?? 1;
      found.dataset.token = String(at);
      paint(found, quoted(token), value(name, at), top);
    });
  }
}

/**
 * @param {string} part
 * @param {Name} name
 * @param {Token[]} tokens
 * @param {(span: HTMLElement, token: Token, at: number) => void} act
 */
function each(part, name, tokens, act) {
  [...place(part, name).children].forEach((found, at) => {
    if (found instanceof HTMLElement) act(found, tokens[at], at);
  });
}

/** @param {string} part @param {Name} name @param {HTMLElement} here */
function say(part, name, here) {
  const index = [...place(part, name).children].indexOf(here);
  const token = part === "prompt" ? prompt[index] : runs[name].tokens[index];
  const at = part === "prompt" ? index : Number(here.dataset.token);
  const pieces = [make("span", "", quoted(token)),
    make("span", "where", `token ${at} (${part}), after layer ${layer.value}`)];
  for (const one of part === "prompt" ? NAMES : [name]) {
    pieces.push(make("span", one, `${one} `, make("span", "number", number(value(one, at)))));
  }
  if (part === "prompt") pieces.push(make("span", "where", `${prompt[index].nats} nats`));
  if (token.logprob !== undefined) {
    const share = Math.exp(token.logprob);
    pieces.push(make("span", "where", `probability ${share < 0.001 ? "<0.001" : share.toFixed(3)}`));
  }
  byId("readout", HTMLElement).replaceChildren(...pieces);
  for (const other of document.querySelectorAll(".tok.here")) other.classList.remove("here");
  here.classList.add("here");
}

/** @param {number} step */
function changeLayer(step) {
  layer.value = String(clamp(Number(layer.value) + step, 0, layers));
  draw();
}

for (const name of NAMES) {
  for (const part of ["prompt", "answer"]) {
    const text = place(part, name);
    walkable(text, (here) => say(part, name, here), (step) => {
      changeLayer(step);
      if (document.activeElement instanceof HTMLElement) say(part, name, document.activeElement);
    });
  }
}
for (const control of [layer, oneScale]) control.addEventListener("input", draw);
