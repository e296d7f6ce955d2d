// SPDX-License-Identifier: MIT
// @ts-check
// Tokens as elements.

import { make } from "./dom.js";

/**
 * @typedef {object} Token
 * @property {string} text What it adds to the text.
 * @property {number} [id]
 * @property {string} [token] Its name in the vocabulary.
 * @property {boolean} [special]
 * @property {number} [count] Of how many tokens it is, while the server has not said where they end.
 * @property {number} [logprob]
 */

/** @param {Token} token @returns {boolean} Whether it has no text of its own. */
const isRaw = (token) => Boolean(token.special) || !token.text;

/** @param {Token} token @returns {string} */
export const label = (token) => (isRaw(token) ? (token.token ?? token.text) : token.text).replaceAll("\n", "↵");

/** @param {Token} token @param {boolean} isStop Whether Tab stops here. */
export function span(token, isStop) {
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
export const quoted = (token) => (isRaw(token) ? label(token) : `“${label(token)}”`);

/**
 * Whether tokens look the same: then whoever reads one of them is not moved away from it.
 * @param {Token[]} before
 * @param {Token[]} now
 */
export const alike = (before, now) => before.length === now.length
  && before.every((one, at) => isRaw(one) === isRaw(now[at]) && label(one) === label(now[at]));

/** Only a text with tokens is a list to walk along. @param {HTMLElement} text @param {string} label */
export function nameText(text, label) {
  if (text.childElementCount) {
    text.setAttribute("role", "listbox");
    text.setAttribute("aria-orientation", "horizontal");
    text.setAttribute("aria-label", label);
  } else {
    for (const one of ["role", "aria-orientation", "aria-label"]) text.removeAttribute(one);
  }
}
