// SPDX-License-Identifier: MIT
// @ts-check
// What was asked before, kept by the browser.

import { button, byId, make, tell } from "./dom.js";

/** @typedef {import("./answers.js").Found} Found */
/** @typedef {Found & {at: string}} Entry */

const KEY = "guide-ext history", MOST = 30;

/** @returns {Entry[]} The newest first. What cannot be read is left alone and not shown. */
function read() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter(isEntry) : [];
  } catch {
    return [];
  }
}

/** @param {any} one @returns {one is Entry} */
function isEntry(one) {
  return typeof one?.prompt?.text === "string" && Array.isArray(one.prompt.marks)
    && typeof one.answers === "object" && typeof one.sampling === "object";
}

/** @param {Found} found @param {(entry: Entry) => void} open */
export function remember(found, open) {
  let entries = [{ ...found, at: new Date().toISOString() }, ...read()].slice(0, MOST);
  for (;;) {
    try {
      localStorage.setItem(KEY, JSON.stringify(entries));
      break;
    } catch {
      // The browser's room is full: Influence takes most of it, then the oldest go.
      const last = entries.findLastIndex((one) => one.record);
      if (last >= 0) entries[last] = { ...entries[last], record: null };
      else if (entries.length > 1) entries = entries.slice(0, -1);
      else break;
    }
  }
  list(open);
}

/** @param {(entry: Entry) => void} open */
export function list(open) {
  const entries = read();
  byId("no-history", HTMLElement).hidden = entries.length > 0;
  button("clear").hidden = entries.length === 0;
  byId("history", HTMLElement).replaceChildren(...entries.map((entry) => {
    const when = make("small", "", new Date(entry.at).toLocaleString());
    const text = entry.prompt.text.trim().replace(/\s+/g, " ").slice(0, 120);
    const found = make("button", "", when, ` ${text}`);
    found.type = "button";
    found.addEventListener("click", () => open(entry));
    return make("li", "", found);
  }));
}

button("clear").addEventListener("click", () => {
  localStorage.removeItem(KEY);
  list(() => {});
  tell("The list is empty.");
  byId("prompt", HTMLElement).focus();
});
