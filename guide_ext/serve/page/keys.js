// SPDX-License-Identifier: MIT
// @ts-check
// The key of the server, asked for in a dialog.

import { askForKeys } from "./api.js";
import { button, byId, complain, input } from "./dom.js";

const dialog = byId("key-dialog", HTMLDialogElement), form = byId("key-form", HTMLFormElement);

/** @param {boolean} wasWrong @returns {Promise<string | null>} */
function ask(wasWrong) {
  complain("key-error", wasWrong ? "That is not the key of this server." : "");
  input("key").value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const done = (/** @type {string | null} */ key) => {
      form.onsubmit = dialog.oncancel = button("no-key").onclick = null;
      dialog.close();
      resolve(key);
    };
    form.onsubmit = (event) => {
      event.preventDefault();
      const key = input("key").value.trim();
      if (/^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/.test(key)) done(key);
      else complain("key-error", "A key has ASCII characters alone.");
    };
    dialog.oncancel = () => done(null);
    button("no-key").onclick = () => done(null);
  });
}

askForKeys(ask);
