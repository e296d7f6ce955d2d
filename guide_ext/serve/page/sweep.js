// SPDX-License-Identifier: MIT
// @ts-check
// The same prompt at several strengths, and the strength that calibration finds.

import { call, events, inWords, isStop } from "./api.js";
import { button, byId, complain, input, make, tell } from "./dom.js";
import { natsText, scaled } from "./marks.js";
import { answer, calibration, route, score } from "./requests.js";

/** @typedef {import("./api.js").About} About */
/** @typedef {import("./requests.js").Prompt} Prompt */
/** @typedef {import("./requests.js").Sampling} Sampling */
/** @typedef {{about: About, prompt: Prompt, sampling: Sampling, signal: AbortSignal}} Asked */

/** @returns {number[]} */
function deltas() {
  const from = input("sweep-from"), to = input("sweep-to"), steps = input("sweep-steps");
  for (const one of [from, to, steps]) {
    if (one.value === "" || !one.checkValidity()) throw new Error("Δ and the steps must be numbers, 2 to 12 steps.");
  }
  const [least, most, count] = [from, to, steps].map((one) => Number(one.value));
  if (least >= most) throw new Error("The first Δ must be below the last.");
  return Array.from({ length: count }, (_, at) => (
    Math.round((least + ((most - least) * at) / (count - 1)) * 100) / 100));
}

/** @param {Asked} asked */
export async function sweep({ about, prompt, sampling, signal }) {
  complain("sweep-error", "");
  byId("chart", HTMLElement).replaceChildren();
  byId("multiples", HTMLElement).replaceChildren();
  try {
    if (!prompt.marks.length) throw new Error("Mark some words first.");
    const all = deltas(), word = input("word").value.trim();
    const cards = all.map(card);
    const scores = word ? call("/v1/guide/score", score(about, prompt, word, all), signal) : null;
    const answers = all.map((delta, at) => one(about, prompt, sampling, delta, cards[at].text, signal));
    // One error is told, whichever comes first; the others must not be left without anybody waiting.
    for (const other of answers) other.catch(() => {});
    if (scores) {
      /** @type {number[]} */
      const found = (await scores).logprobs;
      found.forEach((value, at) => {
        cards[at].number.textContent = `log p(“${word}”) = ${natsText(value)}`;
      });
      chart(all, found, word);
    }
    await Promise.all(answers);
    tell("All strengths have answered.");
  } catch (error) {
    if (!isStop(error)) complain("sweep-error", inWords(error));
  }
}

/** @param {number} delta @returns {{text: HTMLElement, number: HTMLElement}} */
function card(delta) {
  const text = make("div", "text"), number = make("p", "hint"), title = make("h3", "", `Δ = ${natsText(delta)}`);
  text.dir = "auto";
  text.lang = "";
  byId("multiples", HTMLElement).append(make("div", "run guided", title, text, number));
  return { text, number };
}

/**
 * @param {About} about
 * @param {Prompt} prompt
 * @param {Sampling} sampling
 * @param {number} delta
 * @param {HTMLElement} place Gets the text of the answer.
 * @param {AbortSignal} signal
 */
async function one(about, prompt, sampling, delta, place, signal) {
  const body = answer(about, { ...prompt, marks: scaled(prompt.marks, delta) }, sampling, true);
  for await (const event of events(route(about), body, signal)) {
    for (const choice of event.choices) {
      place.append(choice.delta ? (choice.delta.content ?? "") : choice.text);
    }
  }
}

/** @param {number[]} all @param {number[]} found @param {string} word */
function chart(all, found, word) {
  const known = all.map((delta, at) => ({ delta, value: found[at] }));
  const place = byId("chart", HTMLElement), width = Math.min(640, Math.max(260, place.clientWidth));
  const [left, right, top, bottom] = [58, width - 20, 14, 150];
  const low = Math.min(...known.map((one) => one.value)), high = Math.max(...known.map((one) => one.value));
  const x = (/** @type {number} */ delta) => left + ((right - left) * (delta - all[0])) / (all[all.length - 1] - all[0]);
  const y = (/** @type {number} */ value) => (
    high === low ? (top + bottom) / 2 : bottom - ((bottom - top) * (value - low)) / (high - low));
  const label = known.map((one) => `Δ ${natsText(one.delta)}: ${natsText(one.value)}`).join(", ");
  const svg = draw("svg", { width, height: 182, role: "img", "aria-label": `Log-probability of “${word}”: ${label}` });
  svg.append(draw("line", { x1: left, x2: right, y1: bottom + 8, y2: bottom + 8 }));
  for (const delta of all) svg.append(words(x(delta), 176, natsText(delta), "middle"));
  for (const value of new Set([low, high])) svg.append(words(left - 8, y(value) + 4, natsText(value), "end"));
  const line = known.map((one) => `${x(one.delta).toFixed(1)} ${y(one.value).toFixed(1)}`).join("L");
  svg.append(draw("path", { class: "curve", d: `M${line}` }));
  for (const one of known) svg.append(draw("circle", { cx: x(one.delta), cy: y(one.value), r: 3.5 }));
  place.replaceChildren(
    make("h3", "", `log p(the answer begins with “${word}”), over Δ in nats`), svg);
}

/** @param {string} name @param {Record<string, string | number>} attributes @returns {SVGElement} */
function draw(name, attributes) {
  const found = /** @type {SVGElement} */ (document.createElementNS("http://www.w3.org/2000/svg", name));
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, String(value));
  return found;
}

/** @param {number} x @param {number} y @param {string} text @param {string} anchor */
function words(x, y, text, anchor) {
  const found = draw("text", { x, y, "text-anchor": anchor });
  found.textContent = text;
  return found;
}

/** @param {Asked} asked @param {(nats: number) => void} use */
export async function calibrate({ about, prompt, signal }, use) {
  const place = byId("calibrated", HTMLElement);
  complain("sweep-error", "");
  place.textContent = "";
  try {
    if (!prompt.marks.some((mark) => mark.nats > 0)) throw new Error("Mark words with a strength above 0 first.");
    place.textContent = "Δ is being sought.";
    const { delta, interval, target } = await call("/v1/guide/calibrate", calibration(about, prompt), signal);
    const short = (/** @type {number} */ nats) => nats.toFixed(2);
    const apply = make("button", "", "Use it for these marks");
    apply.type = "button";
    apply.addEventListener("click", () => use(Math.round(delta * 100) / 100));
    place.replaceChildren(`Δ = ${short(delta)} nats (between ${short(interval[0])} and ${short(interval[1])}) gives the `
      + `marks the Influence of capitals, ${target.toFixed(4)}. `, apply);
  } catch (error) {
    place.textContent = "";
    if (!isStop(error)) complain("sweep-error", inWords(error));
  }
}

/** @param {() => Promise<void>} compare @param {() => Promise<void>} seek */
export function onSweep(compare, seek) {
  byId("sweep", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    compare();
  });
  button("calibrate").addEventListener("click", seek);
}
