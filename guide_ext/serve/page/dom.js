// SPDX-License-Identifier: MIT
// @ts-check
// Elements. Texts of others go into the page as text alone: nothing here reads HTML.

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page must have a ${kind.name} #${id}`);
  return found;
}

export const input = (/** @type {string} */ id) => byId(id, HTMLInputElement);
export const button = (/** @type {string} */ id) => byId(id, HTMLButtonElement);

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name
 * @param {string} className
 * @param {...(string | Node)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(name, className, ...children) {
  const found = document.createElement(name);
  if (className) found.className = className;
  found.append(...children);
  return found;
}

/**
 * Show in words what went wrong, beside what was tried; an empty text takes it away.
 * @param {string} id
 * @param {string} text
 */
export function complain(id, text) {
  const place = byId(id, HTMLElement);
  place.textContent = text;
  place.hidden = !text;
}

/** @param {string} text What a screen reader says. */
export function tell(text) {
  byId("status", HTMLElement).textContent = text;
}
