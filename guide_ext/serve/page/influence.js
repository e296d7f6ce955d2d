// SPDX-License-Identifier: MIT
// @ts-check
// Texts as tokens, coloured by the Influence of the marks as it arrives, or by what a token attended
// to, see `sources.js`.

import { byId, input, make } from "./dom.js";
import { alike, nameText, quoted, span } from "./tokens.js";
import { clamp, number, outline, paint, walkable } from "./values.js";

/** @typedef {"plain" | "guided"} Name */
/** @typedef {import("./tokens.js").Token} Token */
/** @typedef {{text: string, nats: number, marked: boolean} & Token} PromptToken */
/** @typedef {{tokens: Token[], values: (number | null)[][]}} Run Values are [level][token]. */
/** @typedef {"prompt" | "answer"} Part */
/**
 * @typedef {object} View What is shown instead of Influence.
 * @property {Name} name Of which run.
 * @property {number} at The token that was picked, counted from the beginning of the prompt.
 * @property {(number | null)[]} weights What it attended to, token by token.
 * @property {string} what Which layer and head.
 */

/** @type {readonly Name[]} */
export const NAMES = ["plain", "guided"];
const layer = input("layer"), oneScale = input("one-scale");
/** @type {PromptToken[]} */
let prompt = [];
/** @type {Record<Name, Run>} */
let runs = { plain: { tokens: [], values: [] }, guided: { tokens: [], values: [] } };
let layers = 1, isDue = false;
/** @type {() => View | null} */
let viewer = () => null;
/** @type {View | null} */
let view = null;
/** @type {{part: Part, name: Name, here: HTMLElement} | null} */
let said = null;
/** @type {readonly Part[]} */
const PARTS = ["prompt", "answer"];

/** @param {() => View | null} look Is asked at every drawing. */
export function lookThrough(look) {
  viewer = look;
}

/** @param {Part} part @param {Name} name */
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
  for (const name of NAMES) for (const part of PARTS) fill(part, name, []);
  byId("bar", HTMLElement).hidden = true;
  byId("readout", HTMLElement).replaceChildren();
  said = null;
}

/** @param {PromptToken[]} tokens */
export function setPrompt(tokens) {
  const isSame = alike(prompt, tokens);
  prompt = tokens;
  for (const name of NAMES) {
    if (!isSame) fill("prompt", name, tokens);
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
  if (!alike(before, tokens)) fill("answer", name, runs[name].tokens);
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

/** @param {Part} part @param {Name} name @param {Token[]} tokens */
function fill(part, name, tokens) {
  const text = place(part, name);
  text.replaceChildren(...tokens.map((token, at) => span(token, at === 0)));
  nameText(text, `${part}, ${name}`);
}

/** Draw before the browser paints the next time. */
export function redraw() {
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
function value(name, token) {
  if (view) return view.name === name ? (view.weights[token] ?? null) : null;
  return runs[name].values[Number(layer.value)]?.[token] ?? null;
}

/**
 * What the strongest colour stands for. Marked tokens begin at 1, and the first token gets what a head
 * has no use for: both would hide all others.
 */
function scale() {
  let most = view ? Math.max(0, ...view.weights.slice(1).map((one) => one ?? 0)) : 0;
  for (const name of view ? [] : NAMES) {
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

/** Draw now. */
export function draw() {
  view = viewer();
  const top = scale(), missing = view ? "not looked at" : "not measured";
  byId("layer-name", HTMLElement).textContent = view && layer.value === "0" ? "mean of all" : `${layer.value} of ${layers}`;
  byId("layer-label", HTMLElement).textContent = view ? "Layer" : "After layer";
  byId("colours", HTMLElement).textContent = view ? "Colours of attention: " : "Colours of Influence: ";
  byId("top", HTMLElement).textContent = String(top);
  document.body.classList.toggle("sources", Boolean(view));
  for (const name of NAMES) {
    each("prompt", name, prompt, (found, token, at) => {
      found.dataset.token = String(at);
      show(found, name, at, quoted(token), top, missing);
      outline(found, at, isMarked);
    });
    let at = prompt.length - 1;
    each("answer", name, runs[name].tokens, (found, token) => {
      at += token.count ?? 1;
      found.dataset.token = String(at);
      show(found, name, at, quoted(token), top, missing);
    });
  }
  if (said?.here.isConnected) say(said.part, said.name, said.here);
}

/**
 * @param {HTMLElement} found
 * @param {Name} name
 * @param {number} at
 * @param {string} label
 * @param {number} top
 * @param {string} missing
 */
function show(found, name, at, label, top, missing) {
  paint(found, label, value(name, at), top, false, missing);
  const isPicked = view?.name === name && view.at === at;
  found.classList.toggle("picked", isPicked);
  if (isPicked) found.setAttribute("aria-current", "true");
  else found.removeAttribute("aria-current");
}

/**
 * @param {Part} part
 * @param {Name} name
 * @param {Token[]} tokens
 * @param {(span: HTMLElement, token: Token, at: number) => void} act
 */
function each(part, name, tokens, act) {
  [...place(part, name).children].forEach((found, at) => {
    if (found instanceof HTMLElement) act(found, tokens[at], at);
  });
}

/** @param {Part} part @param {Name} name @param {HTMLElement} here */
function say(part, name, here) {
  const index = [...place(part, name).children].indexOf(here);
  const token = part === "prompt" ? prompt[index] : runs[name].tokens[index];
  const at = Number(here.dataset.token);
  const pieces = [make("span", "", quoted(token)),
    make("span", "where", `token ${at} (${part}), ${view ? view.what : `after layer ${layer.value}`}`)];
  for (const one of view ? [view.name] : part === "prompt" ? NAMES : [name]) {
    const found = view && one !== name ? null : value(one, at);
    pieces.push(make("span", one, `${one} `, make("span", "number", number(found))));
  }
  if (part === "prompt") pieces.push(make("span", "where", `${prompt[index].nats} nats`));
  if (token.logprob !== undefined) {
    const share = Math.exp(token.logprob);
    pieces.push(make("span", "where", `probability ${share < 0.001 ? "<0.001" : share.toFixed(3)}`));
  }
  said = { part, name, here };
  const readout = byId("readout", HTMLElement);
  // What has not changed is not read out again.
  if (pieces.map((one) => one.textContent).join("") !== readout.textContent) readout.replaceChildren(...pieces);
  for (const other of document.querySelectorAll(".tok.here")) other.classList.remove("here");
  here.classList.add("here");
}

/** @returns {{prompt: PromptToken[], runs: Record<Name, Run>}} What is shown. */
export const shown = () => ({ prompt, runs });

/** @param {(name: Name, part: Part, index: number) => void} pick Called with the token that a reader chooses. */
export function onPick(pick) {
  for (const name of NAMES) {
    for (const part of PARTS) {
      const text = place(part, name);
      const choose = (/** @type {Event} */ event) => {
        const found = event.target instanceof Element ? event.target.closest(".tok") : null;
        const index = found ? [...text.children].indexOf(found) : -1;
        if (index >= 0) pick(name, part, index);
        return index >= 0;
      };
      text.addEventListener("click", choose);
      text.addEventListener("keydown", (event) => {
        const isPlain = !(event.ctrlKey || event.altKey || event.metaKey);
        if (isPlain && (event.key === "Enter" || event.key === " ") && choose(event)) event.preventDefault();
      });
    }
  }
}

/** @param {number} step */
function changeLayer(step) {
  layer.value = String(clamp(Number(layer.value) + step, 0, layers));
  layer.dispatchEvent(new Event("input"));
}

for (const name of NAMES) {
  for (const part of PARTS) {
    const text = place(part, name);
    walkable(text, (here) => say(part, name, here), (step) => {
      if (document.activeElement instanceof HTMLElement) said = { part, name, here: document.activeElement };
      changeLayer(step);
    });
  }
}
for (const control of [layer, oneScale]) control.addEventListener("input", draw);
