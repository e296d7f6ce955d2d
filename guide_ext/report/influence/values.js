// SPDX-License-Identifier: MIT
// @ts-check
// What the report and the page of the server share: numbers, colours and walking along tokens.

export const MINUS = "\u2212";

/** @param {number} found @param {number} least @param {number} most @returns {number} */
export const clamp = (found, least, most) => Math.min(most, Math.max(least, found));

/**
 * Four digits, or six where small values would vanish; as number_text of Python.
 * @param {number | null | undefined} found
 * @param {boolean} isSigned
 * @returns {string}
 */
export function number(found, isSigned = false) {
  if (found === null || found === undefined) return "–";
  const size = Math.abs(found);
  const shown = size > 0 && size < 0.001 ? size.toFixed(6).replace(/0+$/, "") : size.toFixed(4);
  return (found < 0 ? MINUS : isSigned && found > 0 ? "+" : "") + shown;
}

/**
 * Show a value on a token: as colour, as the number under it, in words.
 * @param {HTMLElement} span
 * @param {string} name
 * @param {number | null} found
 * @param {number} top What the strongest colour stands for.
 * @param {boolean} isSigned
 * @param {string} missing What null means.
 */
export function paint(span, name, found, top, isSigned = false, missing = "not measured") {
  const label = `${name}: ${found === null ? missing : number(found, isSigned)}`;
  span.style.setProperty("--v", Math.min(1, Math.abs(found ?? 0) / top).toFixed(3));
  span.dataset.number = number(found, isSigned);
  span.title = label;
  span.setAttribute("aria-label", label);
  span.classList.toggle("less", found !== null && found < 0);
}

/**
 * Draw one outline around neighbours of a group.
 * @param {HTMLElement} span
 * @param {number} token
 * @param {(token: number) => boolean} member
 */
export function outline(span, token, member) {
  span.classList.toggle("in", member(token));
  span.classList.toggle("first", member(token) && !member(token - 1));
  span.classList.toggle("last", member(token) && !member(token + 1));
}

// ↑ ↓ change the layer everywhere; → 1, Page Down 10 tokens.
/** @type {Record<string, number>} */
const LAYERS = { ArrowUp: 1, ArrowDown: -1 };
/** @type {Record<string, number>} */
const STEPS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };

/**
 * @param {KeyboardEvent} event
 * @param {number} token
 * @param {number} first
 * @param {number} last
 * @param {(token: number) => void} go
 * @param {(step: number) => void} changeLayer
 */
export function walk(event, token, first, last, go, changeLayer) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key in LAYERS) changeLayer(LAYERS[event.key]);
  else if (event.key in STEPS) go(clamp(token + STEPS[event.key], first, last));
  else return;
  event.preventDefault();
}

/**
 * Let a reader point at the tokens of a text, and walk along them.
 * @param {HTMLElement} text
 * @param {(span: HTMLElement) => void} say
 * @param {(step: number) => void} changeLayer
 */
export function walkable(text, say, changeLayer) {
  const own = () => /** @type {HTMLElement[]} */ ([...text.querySelectorAll(".tok")]);
  const token = (/** @type {Event} */ event) => (
    event.target instanceof Element ? /** @type {HTMLElement | null} */ (event.target.closest(".tok")) : null);
  text.addEventListener("focusin", (event) => {
    const here = token(event);
    if (!here) return;
    for (const span of own()) {
      span.tabIndex = span === here ? 0 : -1;
      span.setAttribute("aria-selected", String(span === here));
    }
    say(here);
  });
  text.addEventListener("pointerover", (event) => {
    const here = token(event);
    if (here) say(here);
  });
  text.addEventListener("keydown", (event) => {
    const here = token(event), all = own();
    if (here) walk(event, all.indexOf(here), 0, all.length - 1, (at) => all[at].focus(), changeLayer);
  });
}
