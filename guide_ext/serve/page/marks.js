// SPDX-License-Identifier: MIT
// @ts-check
// Marks of a text as ranges, and the same as tags. Ranges here count as JavaScript does, in UTF-16
// units; the server counts characters, see `spans`.

/** @typedef {{start: number, end: number, nats: number}} Mark Half-open; nats are its strength. */

const WORDS = new Intl.Segmenter(undefined, { granularity: "word" });

/**
 * Grow a selection to whole words, and leave out white space at its edges.
 * @param {string} text
 * @param {number} start
 * @param {number} end
 * @returns {[number, number] | null} Null where there is no word.
 */
export function words(text, start, end) {
  for (const { segment, index, isWordLike } of WORDS.segment(text)) {
    const after = index + segment.length;
    if (!isWordLike) continue;
    // A caret at either edge of a word means this word.
    if (start === end && index <= start && start <= after) return [index, after];
    if (index < start && start < after) start = index;
    if (index < end && end < after) end = after;
  }
  return tightened(text, start, end);
}

/**
 * @param {string} text
 * @param {number} start
 * @param {number} end
 * @returns {[number, number] | null}
 */
function tightened(text, start, end) {
  const inner = text.slice(start, end), whole = inner.trim();
  if (!whole) return null;
  const from = start + inner.indexOf(whole);
  return [from, from + whole.length];
}

/**
 * Mark a range; what was marked there before is replaced, so marks never overlap.
 * @param {readonly Mark[]} marks
 * @param {Mark} mark
 * @returns {Mark[]}
 */
export function put(marks, mark) {
  return merged([...cut(marks, mark.start, mark.end), mark]);
}

/**
 * Take the marks away from a range.
 * @param {readonly Mark[]} marks
 * @param {number} start
 * @param {number} end
 * @returns {Mark[]}
 */
export function cut(marks, start, end) {
  return marks.flatMap((mark) => [
    { ...mark, end: Math.min(mark.end, start) },
    { ...mark, start: Math.max(mark.start, end) },
  ]).filter((mark) => mark.start < mark.end);
}

/** @param {Mark[]} marks @returns {Mark[]} */
function merged(marks) {
  /** @type {Mark[]} */
  const found = [];
  for (const mark of marks.sort((one, other) => one.start - other.start)) {
    const last = found.at(-1);
    if (last && last.end === mark.start && last.nats === mark.nats) last.end = mark.end;
    else found.push({ ...mark });
  }
  return found;
}

/**
 * Move marks with the text that they are on, after somebody typed.
 * @param {readonly Mark[]} marks
 * @param {string} before
 * @param {string} after
 * @param {number} caret Where the typing ended, in `after`.
 * @returns {Mark[]}
 */
export function moved(marks, before, after, caret) {
  // Of equal letters the caret tells which were typed: the change ends there.
  const least = Math.min(before.length, after.length);
  let tail = 0;
  while (tail < least && tail < after.length - caret && before.at(-1 - tail) === after.at(-1 - tail)) tail++;
  let head = 0;
  while (head < least - tail && before[head] === after[head]) head++;
  const end = before.length - tail, shift = after.length - before.length;
  return marks.flatMap((mark) => {
    // What is typed inside a mark belongs to it, at its edges not; what is deleted leaves it.
    const from = mark.start < head ? mark.start : Math.max(mark.start, end) + shift;
    const to = mark.end > end ? mark.end + shift : Math.min(mark.end, head);
    const range = from < to ? tightened(after, from, to) : null;
    return range ? [{ start: range[0], end: range[1], nats: mark.nats }] : [];
  });
}

/**
 * Give every mark a strength in proportion, so that the strongest gets `nats`.
 * @param {readonly Mark[]} marks
 * @param {number} nats
 * @returns {Mark[]}
 */
export function scaled(marks, nats) {
  const most = Math.max(...marks.map((mark) => Math.abs(mark.nats)), 0);
  return marks.map((mark) => ({ ...mark, nats: most ? (mark.nats / most) * nats : nats }));
}

/** @param {string} text @param {number} units @returns {number} Characters in the first units. */
const characters = (text, units) => [...text.slice(0, units)].length;

/**
 * @param {string} text
 * @param {readonly Mark[]} marks
 * @returns {{start: number, end: number, delta: number}[]} For `guide.spans`.
 */
export function spans(text, marks) {
  return marks.map(({ start, end, nats }) => (
    { start: characters(text, start), end: characters(text, end), delta: nats }));
}

// What the server takes for a tag: the grammar of guide_ext/marking/tags.py. White space is that of
// Python, which is not \s of JavaScript.
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const NAME = `[^${SPACE}\\x00-,\\/:-@\\[-\\^\`\\{-\\x7f]`;
const FIRST = `[^${SPACE}\\x00-\\$&-+\\-\\/:-@\\[-\\^\`\\{-\\x7f]`;
const REST = `[^${SPACE}\\x00-\\$&-*\\/:-@\\[-\\^\`\\{-\\x7f]`;
const NUMBER = "[+\\-]?(?:[0-9]+(?:\\.[0-9]*)?|\\.[0-9]+)(?:[eE][+\\-]?[0-9]+)?";
const TAG = new RegExp(
  `<!!*(?:[+\\-]?${FIRST}${REST}*)?->|<\\?${NAME}*->|<-!+(?:${NUMBER})?>|<-\\?${NAME}*>`, "gu");

/** @param {string} text @returns {string} The text, in which every tag is literal. */
export function escape(text) {
  return text.replace(TAG, (tag, at) => "\\".repeat(backslashes(text.slice(0, at)) + 1) + tag);
}

/** @param {string} text @returns {number} How many backslashes are at its end. */
function backslashes(text) {
  let count = 0;
  while (text.at(-1 - count) === "\\") count++;
  return count;
}

/**
 * Write marks as tags that the server reads as the same marks.
 * @param {string} text
 * @param {readonly Mark[]} marks
 * @param {(mark: Mark) => [string, string]} tags The opening and the closing tag of a mark.
 * @returns {string}
 */
export function tagged(text, marks, tags = ({ nats }) => [`<!${nats}->`, "<-!>"]) {
  let found = "", at = 0;
  // Backslashes right before a tag of ours are text: two stand for one.
  const write = (/** @type {number} */ end, /** @type {string} */ tag) => {
    const piece = text.slice(at, end);
    found += escape(piece) + "\\".repeat(backslashes(piece)) + tag;
    at = end;
  };
  for (const mark of marks) {
    const [opening, closing] = tags(mark);
    write(mark.start, opening);
    write(mark.end, closing);
  }
  return found + escape(text.slice(at));
}

/** @param {number} nats @returns {string} With a sign, as people write it. */
export function natsText(nats) {
  const size = String(Math.round(Math.abs(nats) * 1000) / 1000);
  return nats < 0 ? `−${size}` : nats > 0 ? `+${size}` : size;
}
