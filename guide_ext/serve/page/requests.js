// SPDX-License-Identifier: MIT
// @ts-check
// The bodies of requests.

import { scaled, spans, tagged } from "./marks.js";

/** @typedef {import("./marks.js").Mark} Mark */
/** @typedef {import("./api.js").About} About */
/** @typedef {{text: string, marks: Mark[]}} Prompt */
/** @typedef {{tokens: number, temperature: number, seed: number}} Sampling */

/** @param {About} about @param {string} text @returns {object} As a chat, where the model knows chats. */
function input(about, text) {
  return about.has_chat_template ? { messages: [{ role: "user", content: text }] } : { prompt: text };
}

/** @param {About} about @returns {string} The route that answers. */
export const route = (about) => (about.has_chat_template ? "/v1/chat/completions" : "/v1/completions");

/**
 * A prompt with marks as ranges: no tag in it acts.
 * @param {About} about
 * @param {Prompt} prompt
 */
export function ranged(about, { text, marks }) {
  return { model: about.model, ...input(about, text), guide: { spans: spans(text, marks) } };
}

/**
 * @param {About} about
 * @param {Prompt} prompt
 * @param {Sampling} sampling
 * @param {boolean} isGuided
 */
export function answer(about, prompt, sampling, isGuided) {
  const body = ranged(about, prompt);
  return {
    ...body, guide: { ...body.guide, enabled: isGuided }, stream: true,
    logprobs: about.has_chat_template ? true : 0,
    max_tokens: sampling.tokens, temperature: sampling.temperature, seed: sampling.seed,
  };
}

/**
 * Both answers in one stream, each token with its Influence.
 * @param {About} about
 * @param {Prompt} prompt
 * @param {Sampling} sampling
 */
export function measured(about, prompt, { tokens, temperature, seed }) {
  return { ...ranged(about, prompt), max_tokens: tokens, temperature, seed, stream: true };
}

/**
 * Where one token comes from.
 * @param {About} about
 * @param {Prompt} prompt
 * @param {boolean} isGuided
 * @param {{answer: number[], token: number, of: "written" | "read", layers?: number[]}} asked
 */
export function sources(about, prompt, isGuided, asked) {
  const body = ranged(about, prompt);
  return { ...body, guide: { ...body.guide, enabled: isGuided }, ...asked };
}

/**
 * How likely an answer begins with a text, at several Δ; the marks keep their proportions.
 * @param {About} about
 * @param {Prompt} prompt
 * @param {string} text
 * @param {number[]} deltas
 */
export function score(about, prompt, text, deltas) {
  const unit = { ...prompt, marks: scaled(prompt.marks, 1) };
  return { ...ranged(about, unit), answers: [text], factors: deltas };
}

/**
 * What Δ is sought for: marks that emphasize, as tags of level 2. Others keep their strength.
 * @param {About} about
 * @param {Prompt} prompt
 */
export function calibration(about, { text, marks }) {
  const tags = (/** @type {Mark} */ { nats }) => /** @type {[string, string]} */ (
    nats > 0 ? ["<!!->", "<-!!>"] : [`<!${nats}->`, "<-!>"]);
  return { model: about.model, ...input(about, tagged(text, marks, tags)) };
}

/**
 * The guided answer as a client of OpenAI's API would ask for it, with tags in the prompt.
 * @param {About} about
 * @param {Prompt} prompt
 * @param {Sampling} sampling
 */
function asTags(about, { text, marks }, sampling) {
  const { tokens, temperature, seed } = sampling;
  return {
    model: about.model, ...input(about, tagged(text, marks)), max_tokens: tokens, temperature,
    ...(temperature ? { seed } : {}),
  };
}

/** @param {About} about @param {Prompt} prompt @param {Sampling} sampling @returns {string} */
export function curl(about, prompt, sampling) {
  const body = JSON.stringify(asTags(about, prompt, sampling), null, 1).replaceAll("'", "'\\''");
  return `# GUIDE_API_KEY: the key of the server, if it has one
curl -sS ${location.origin}${route(about)} \\
  -H "Authorization: Bearer \${GUIDE_API_KEY:-none}" -H 'Content-Type: application/json' \\
  -d '${body}'
`;
}

/** @param {About} about @param {Prompt} prompt @param {Sampling} sampling @returns {string} */
export function python(about, prompt, sampling) {
  // What JSON writes of texts, numbers, lists and objects is Python, too; halves of surrogate pairs
  // are written as \ud800.
  const body = Object.entries(asTags(about, prompt, sampling))
    .map(([name, value]) => `    ${name}=${JSON.stringify(value)},\n`).join("");
  const call = about.has_chat_template ? "chat.completions" : "completions";
  const found = about.has_chat_template ? "message.content" : "text";
  return `import os

from openai import OpenAI

client = OpenAI(
    base_url=${JSON.stringify(`${location.origin}/v1`)},
    api_key=os.environ.get("GUIDE_API_KEY", "none"),
)
answer = client.${call}.create(
${body})
print(answer.choices[0].${found})
`;
}
