// SPDX-License-Identifier: MIT
// @ts-check
// The prompt and its marks: a plain text field, colours behind it, and a list of the marks.

import { button, byId, input, make, tell } from "./dom.js";
import { cut, moved, natsText, put, tagged, words } from "./marks.js";

/** @typedef {import("./marks.js").Mark} Mark */
/** @typedef {import("./requests.js").Prompt} Prompt */

const field = byId("prompt", HTMLTextAreaElement), backdrop = byId("backdrop", HTMLElement);
const tagsField = byId("tagged", HTMLTextAreaElement), list = byId("marks", HTMLElement);
const slider = input("strength"), brush = input("brush");
const MOST = Number(slider.max);
let before = "";
/** @type {Mark[]} */
let marks = [];

/** @returns {Prompt} What is written and marked now. */
export function written() {
  return { text: field.value, marks: marks.map((mark) => ({ ...mark })) };
}

/** @param {Prompt} prompt */
export function write(prompt) {
  field.value = before = prompt.text;
  marks = prompt.marks.map((mark) => ({ ...mark }));
  draw();
}

/** @param {number} nats Strength of every mark that emphasizes. */
export function strengthen(nats) {
  marks = marks.map((mark) => (mark.nats > 0 ? { ...mark, nats } : mark));
  draw();
}

/** @returns {Mark | undefined} The mark that the selection is in. */
function current() {
  const { selectionStart: start, selectionEnd: end } = field;
  return marks.find((mark) => mark.start <= start && end <= mark.end && start < mark.end)
    ?? marks.find((mark) => mark.start <= start && end <= mark.end);
}

function mark() {
  const range = words(field.value, field.selectionStart, field.selectionEnd);
  if (!range) {
    tell("There is no word here to mark.");
    return;
  }
  const found = { start: range[0], end: range[1], nats: Number(slider.value) };
  marks = put(marks, found);
  tell(`Marked “${field.value.slice(found.start, found.end)}” with ${natsText(found.nats)} nats.`);
  draw();
}

function unmark() {
  const { selectionStart: start, selectionEnd: end } = field, here = current();
  const count = marks.length;
  if (start < end && !here) marks = cut(marks, start, end);
  else if (here) marks = marks.filter((one) => one !== here);
  tell(marks.length < count ? "The mark is removed." : "There is no mark here.");
  draw();
}

function draw() {
  const text = field.value;
  /** @type {(string | Node)[]} */
  const pieces = [];
  let at = 0;
  for (const { start, end, nats } of marks) {
    const piece = make("mark", nats < 0 ? "less" : nats ? "" : "zero", text.slice(start, end));
    piece.style.setProperty("--v", String(0.2 + (0.8 * Math.min(MOST, Math.abs(nats))) / MOST));
    pieces.push(text.slice(at, start), piece);
    at = end;
  }
  // A line break at the end has a line of its own in a text field.
  backdrop.replaceChildren(...pieces, `${text.slice(at)}\n`);
  tagsField.value = tagged(text, marks);
  list.replaceChildren(...marks.map((one) => row(one, text.slice(one.start, one.end))));
  show();
}

/** @param {Mark} one @param {string} text @returns {HTMLElement} */
function row(one, text) {
  const name = make("span", "", text), number = make("input", ""), remove = make("button", "", "✕");
  name.lang = "";
  name.title = text;
  Object.assign(number, { type: "number", min: String(-MOST), max: String(MOST), step: "0.25" });
  number.value = String(one.nats);
  number.setAttribute("aria-label", `Strength of “${text}” in nats`);
  number.addEventListener("change", () => {
    const nats = Number(number.value);
    if (number.value === "" || !number.checkValidity()) number.reportValidity();
    else change(one, nats);
  });
  remove.type = "button";
  remove.setAttribute("aria-label", `Remove the mark of “${text}”`);
  remove.addEventListener("click", () => {
    marks = marks.filter((other) => other !== one);
    draw();
    field.focus();
  });
  return make("li", "", name, number, remove);
}

/** @param {Mark} one @param {number} nats */
function change(one, nats) {
  one.nats = nats;
  const focused = document.activeElement?.getAttribute("aria-label");
  draw();
  // The list is new: whoever was in it stays there.
  for (const element of list.querySelectorAll("input")) {
    if (element.getAttribute("aria-label") === focused) element.focus();
  }
}

/** Show the strength of the mark at the caret. */
function show() {
  const here = current();
  if (here && document.activeElement !== slider) slider.value = String(here.nats);
  slider.setAttribute("aria-valuetext", `${natsText(Number(slider.value))} nats`);
  byId("strength-text", HTMLElement).textContent = `${natsText(Number(slider.value))} nats`;
  button("unmark").disabled = marks.length === 0;
}

field.addEventListener("input", () => {
  marks = moved(marks, before, field.value, field.selectionEnd);
  before = field.value;
  draw();
});
field.addEventListener("scroll", () => { field.scrollTop = 0; });
document.addEventListener("selectionchange", () => {
  if (document.activeElement === field) show();
});
slider.addEventListener("input", () => {
  const here = current();
  if (here) change(here, Number(slider.value));
  else show();
});
button("mark").addEventListener("click", mark);
button("unmark").addEventListener("click", unmark);
field.addEventListener("keydown", (event) => {
  if (!event.altKey || event.code !== "KeyM") return;
  event.preventDefault();
  mark();
});
field.addEventListener("pointerdown", () => {
  addEventListener("pointerup", () => {
    if (brush.checked && field.selectionStart < field.selectionEnd) mark();
  }, { once: true });
});
for (const id of ["as-colours", "as-tags"]) {
  input(id).addEventListener("change", () => {
    const isTags = input("as-tags").checked;
    byId("editor", HTMLElement).hidden = isTags;
    tagsField.hidden = !isTags;
  });
}
write({ text: field.value, marks: [] });
