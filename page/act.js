// What operators do: a dialog asks for the reason, then says what came of it. Whoever may not act sees no buttons.

import { Refused, newKey } from "./api.js";
import { $, el } from "./dom.js";
import { t } from "./words.js";

let mayAct = false;
let work;
let opener;

/** Whether whoever is signed in may act: operators, and tokens without a role. */
export const allow = (role) => (mayAct = role === null || role === "operator");
export const isAllowed = () => mayAct;

/** A button that opens the dialog; nothing for those who may not act. */
export function button(word, label, choice) {
  return mayAct ? el("button", { class: "quiet", type: "button", "aria-label": label, click: () => ask({ ...choice, word }) }, word) : null;
}

/**
 * Asks for a reason. `run` gets it with a key that names the request, so that trying again does nothing twice; it gives what to say.
 * Then `after` is called, and the focus goes back to where it was, or to `home` where that is gone. What is refused has changed
 * meanwhile, so `refused` asks anew.
 */
export function ask({ title, about, word, run, after, refused, home }) {
  opener = document.activeElement;
  work = { run, after, refused, home, key: newKey() };
  $("act-title").textContent = title;
  $("act-about").replaceChildren(...[about].flat().map((line) => el("li", { dir: "auto" }, line)));
  $("act-do").textContent = word;
  $("act-do").disabled = false;
  $("act-error").textContent = "";
  $("act-reason").value = "";
  $("act").showModal();
  $("act-reason").focus();
}

/** What can be pressed. */
export function start() {
  $("act-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const reason = $("act-reason").value.trim();
    if (!reason) return say(t.reasonNeeded);
    const mine = work;
    const from = opener;
    const { run, after, refused, home, key } = mine;
    $("act-do").disabled = true;
    try {
      const done = await run(reason, key);
      const isShown = work === mine;
      if (isShown) $("act").close();
      await after(done);
      if (isShown) focusAgain(from, home);
    } catch (error) {
      if (error instanceof Refused || work !== mine) return;
      if (!$("act").open) $("act").showModal();
      say(error.detail ? `${t.notDone} ${error.detail}` : t.failed);
      if (error.detail) refused?.();
    } finally {
      if (work === mine) $("act-do").disabled = false;
    }
  });
  $("act-back").addEventListener("click", () => {
    const { home } = work;
    $("act").close();
    focusAgain(opener, home);
  });
}

/** Takes it off the screen. */
export function forget() {
  mayAct = false;
  if ($("act").open) $("act").close();
}

function focusAgain(from, home) {
  (from?.isConnected && !from.disabled ? from : $(home)).focus();
}

function say(text) {
  $("act-error").textContent = text;
  $("act-reason").focus();
}
