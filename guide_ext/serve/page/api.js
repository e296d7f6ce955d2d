// SPDX-License-Identifier: MIT
// @ts-check
// Requests to the server, its errors, its streams, and the key that it may ask for.

/** @typedef {import("./marks.js").Mark} Mark */
/** @typedef {{model: string, layers: number, heads: number, has_chat_template: boolean, delta: number,
 *   limits: {nats: number, answer_tokens: number, spans: number}}} About */

const KEY = "guide-ext key";

/** What the server refused, or that it could not be asked; the message is for the reader. */
export class RequestError extends Error {
  /** @param {string} message @param {number} status */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** @type {(wasWrong: boolean) => Promise<string | null>} */
let ask = async () => null;
/** @type {Promise<string | null> | null} */
let asking = null;

/** @param {(wasWrong: boolean) => Promise<string | null>} how How the reader is asked for a key. */
export function askForKeys(how) {
  ask = how;
}

/**
 * @param {string} path
 * @param {object | null} body Null for GET.
 * @param {AbortSignal} [signal]
 * @returns {Promise<Response>}
 */
async function send(path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    /** @type {Record<string, string>} */
    const headers = key === null ? {} : { authorization: `Bearer ${key}` };
    if (body) headers["content-type"] = "application/json";
    const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
    let response;
    try {
      response = await fetch(path, { ...options, headers, signal });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new RequestError("The server cannot be reached. Is it still running?", 0);
    }
    if (response.ok) return response;
    if (response.status !== 401) throw await told(response);
    if (key !== sessionStorage.getItem(KEY)) continue; // another request has got one meanwhile
    asking ??= ask(key !== null).finally(() => { asking = null; });
    const given = await asking;
    if (given === null) throw new RequestError("The server asks for a key, and none was given.", 401);
    sessionStorage.setItem(KEY, given);
  }
}

/** @param {Response} response @returns {Promise<RequestError>} */
async function told(response) {
  const found = await response.json().catch(() => null);
  const message = found?.error?.message ?? `the server answered ${response.status}`;
  return new RequestError(message, response.status);
}

/**
 * @param {string} path
 * @param {object | null} [body]
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function call(path, body = null, signal) {
  return (await send(path, body, signal)).json();
}

/**
 * Read a stream of events, until the server says that it is complete.
 * @param {string} path
 * @param {object} body
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<any, void, void>}
 */
export async function* events(path, body, signal) {
  const response = await send(path, body, signal);
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        if (signal.aborted) throw error;
        return { value: undefined, done: true };
      });
      if (done) throw new RequestError("The answer broke off: the server was lost.", 0);
      const parts = (text + decoder.decode(value, { stream: true })).split("\n\n");
      text = parts.pop() ?? "";
      for (const part of parts) {
        const data = part.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const found = JSON.parse(data);
        if (found.error) throw new RequestError(found.error.message, 0);
        yield found;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {unknown} error @returns {boolean} Whether it is that the reader pressed "stop". */
export function isStop(error) {
  return error instanceof DOMException && error.name === "AbortError";
}

/** @param {unknown} error @returns {string} */
export function inWords(error) {
  return error instanceof Error ? error.message : String(error);
}
