// SPDX-License-Identifier: MIT
// @ts-check
// Copies of the prompt, and files of what was found.

import { inWords } from "./api.js";
import { button, byId, complain, make, tell } from "./dom.js";
import { tagged } from "./marks.js";
import { curl, python } from "./requests.js";

/** @typedef {import("./api.js").About} About */
/** @typedef {import("./answers.js").Found} Found */
/** @typedef {import("./requests.js").Prompt} Prompt */
/** @typedef {import("./requests.js").Sampling} Sampling */

const STYLES = ["/assets/base.css", "/assets/report.css", "/assets/page.css"];

/**
 * @param {() => {about: About, prompt: Prompt, sampling: Sampling}} now
 * @param {() => Found | null} found
 */
export function exportsOf(now, found) {
  const copies = {
    tags: () => tagged(now().prompt.text, now().prompt.marks),
    curl: () => curl(now().about, now().prompt, now().sampling),
    python: () => python(now().about, now().prompt, now().sampling),
  };
  for (const [name, text] of Object.entries(copies)) {
    on(`copy-${name}`, async () => copy(text()));
  }
  on("save-json", async () => save("answers.json", "application/json", JSON.stringify(whole(found()), null, 1)));
  on("save-html", async () => save("answers.html", "text/html", `<!DOCTYPE html>\n${(await page(found())).outerHTML}`));
  on("save-png", async () => save("answers.png", "image/png", await picture(await page(found()))));
}

/** @param {string} id @param {() => Promise<void>} act */
function on(id, act) {
  button(id).addEventListener("click", async () => {
    complain("take-error", "");
    try {
      await act();
    } catch (error) {
      complain("take-error", inWords(error));
    }
  });
}

/** @param {string} text */
async function copy(text) {
  const shown = byId("copied", HTMLTextAreaElement);
  shown.value = text;
  shown.hidden = false;
  try {
    await navigator.clipboard.writeText(text);
    tell("Copied.");
  } catch {
    // Without https browsers keep the clipboard to themselves.
    shown.focus();
    shown.select();
    tell("Select and copy it here.");
  }
}

/** @param {Found | null} found @returns {Found} */
function whole(found) {
  if (!found) throw new Error("There is no answer yet: press Answer first.");
  return found;
}

/** @param {string} name @param {string} kind @param {string | Blob} data */
function save(name, kind, data) {
  const link = make("a", ""), url = URL.createObjectURL(new Blob([data], { type: kind }));
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  tell(`Saved as ${name}.`);
}

/**
 * A page of its own, without scripts, which may load nothing.
 * @param {Found | null} found
 * @returns {Promise<HTMLElement>}
 */
async function page(found) {
  const { prompt } = whole(found);
  const styles = await Promise.all(STYLES.map(async (path) => (await fetch(path)).text()));
  const answers = /** @type {HTMLElement} */ (byId("answers", HTMLElement).cloneNode(true));
  for (const one of answers.querySelectorAll("[hidden], #answers > .hint:not([id])")) one.remove();
  for (const one of answers.querySelectorAll("details")) one.open = true;
  for (const one of answers.querySelectorAll("[tabindex]")) one.removeAttribute("tabindex");
  for (const one of answers.querySelectorAll(".here")) one.classList.remove("here");
  const policy = make("meta", "");
  policy.httpEquiv = "Content-Security-Policy";
  policy.content = "default-src 'none'; style-src 'unsafe-inline'";
  const charset = make("meta", "");
  charset.setAttribute("charset", "utf-8");
  const head = make("head", "", charset, policy, make("title", "", "Answers, plain and guided"),
    make("style", "", styles.join("\n")));
  const text = make("p", "text", tagged(prompt.text, prompt.marks));
  const main = make("main", "saved", make("h1", "", "Answers, plain and guided"),
    make("h2", "", "The prompt"), text, answers);
  const html = document.createElement("html");
  html.lang = "en";
  html.append(head, make("body", "", main));
  return html;
}

/** @param {HTMLElement} html @returns {Promise<Blob>} */
async function picture(html) {
  // The same page, drawn by the browser as an image.
  const width = 1000, frame = make("div", "");
  frame.append(...[...html.querySelectorAll("style, main")].map((one) => one.cloneNode(true)));
  frame.style.cssText = `position:absolute;left:-9999px;width:${width}px`;
  const hidden = /** @type {HTMLElement} */ (html.querySelector("main")).cloneNode(true);
  const probe = make("div", "", hidden);
  probe.style.cssText = frame.style.cssText;
  document.body.append(probe);
  const height = Math.min(16_000, probe.offsetHeight + 60);
  probe.remove();
  frame.style.cssText = `background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif;min-height:${height}px`;
  const body = new XMLSerializer().serializeToString(frame);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">`
    + `<foreignObject width="100%" height="100%">${body}</foreignObject></svg>`;
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = make("canvas", "");
  Object.assign(canvas, { width: width * 2, height: height * 2 });
  canvas.getContext("2d")?.drawImage(image, 0, 0, width * 2, height * 2);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The browser made no picture."))));
  });
}
