// SPDX-License-Identifier: MIT
// @ts-check
// The page of the server.

import "./keys.js";
import * as answers from "./answers.js";
import { call, inWords } from "./api.js";
import { button, byId, complain, input } from "./dom.js";
import { strengthen, write, written } from "./editor.js";
import { exportsOf } from "./exports.js";
import * as history from "./history.js";
import { setLayers } from "./influence.js";
import { escape, leave, onSources } from "./sources.js";
import { calibrate, onSweep, sweep } from "./sweep.js";

/** @typedef {import("./api.js").About} About */
/** @typedef {import("./answers.js").Found} Found */

/** @type {About | null} */
let about = null;
/** @type {Found | null} */
let found = null;
/** @type {AbortController | null} */
let running = null;

/** @returns {Promise<About>} */
async function known() {
  if (!about) {
    /** @type {About} */
    const told = await call("/v1/guide");
    about = told;
    byId("model", HTMLElement).textContent = told.model;
    input("tokens").max = String(told.limits.answer_tokens);
    setLayers(told.layers);
    complain("page-error", "");
  }
  return about;
}

function sampling() {
  for (const id of ["tokens", "temperature", "seed"]) {
    const one = input(id);
    if (one.value === "" || !one.checkValidity()) {
      one.focus();
      throw new Error(`${one.labels?.[0]?.textContent?.trim()}: ${one.validationMessage || "a number is missing"}`);
    }
  }
  const [tokens, temperature, seed] = ["tokens", "temperature", "seed"].map((id) => Number(input(id).value));
  return { tokens, temperature, seed };
}

/**
 * Do something that the stop button ends; one thing at a time.
 * @param {string} place Where its errors go.
 * @param {(asked: import("./sweep.js").Asked) => Promise<void>} act
 */
async function work(place, act) {
  if (running) return;
  const controller = running = new AbortController();
  /** @type {HTMLButtonElement[]} */
  const others = ["run", "sweep-run", "calibrate"].map(button);
  for (const other of others) other.setAttribute("aria-disabled", "true");
  button("stop").disabled = false;
  try {
    complain(place, "");
    const prompt = written();
    if (!prompt.text.trim()) throw new Error("Write a prompt first.");
    await act({ about: await known(), prompt, sampling: sampling(), signal: controller.signal });
  } catch (error) {
    complain(place, inWords(error));
  } finally {
    running = null;
    for (const other of others) other.removeAttribute("aria-disabled");
    button("stop").disabled = true;
  }
}

const run = () => work("prompt-error", async ({ about: model, prompt, sampling: how, signal }) => {
  leave();
  found = null;
  const now = await answers.ask(model, prompt, how, input("measure").checked, signal);
  if (Object.values(now.answers).some((one) => one.text)) {
    found = now;
    history.remember(now, open);
  }
});

/** @param {history.Entry} entry */
function open(entry) {
  if (running) return;
  leave();
  found = entry;
  write(entry.prompt);
  input("tokens").value = String(entry.sampling.tokens);
  input("temperature").value = String(entry.sampling.temperature);
  input("seed").value = String(entry.sampling.seed);
  answers.show(entry);
  byId("prompt", HTMLElement).focus();
}

button("run").addEventListener("click", run);
button("stop").addEventListener("click", () => running?.abort());
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  } else if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
    if (running) running.abort();
    else if (escape()) event.preventDefault();
  }
});
for (const form of document.querySelectorAll("form.controls")) {
  form.addEventListener("submit", (event) => event.preventDefault());
}
onSources(() => (about && found ? { about, prompt: found.prompt } : null));
onSweep(() => work("sweep-error", sweep), () => work("sweep-error", (asked) => calibrate(asked, strengthen)));
exportsOf(() => {
  if (!about) throw new Error("The server has not answered yet.");
  return { about, prompt: written(), sampling: sampling() };
}, () => {
  leave(); // files show Influence
  return found;
});
history.list(open);
known().catch((error) => complain("page-error", inWords(error)));
