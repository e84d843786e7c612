// Short notices of what has just been rescheduled. They go by themselves, unless somebody reads them.

import { $, el } from "./dom.js";
import { t } from "./words.js";

const STAYS = 8000;
const MOST = 3;

/** Shows one; the oldest makes room. */
export function toast(title, text) {
  const shown = el(
    "div", { class: "toast" },
    el("p", { class: "title" }, title),
    el("p", { class: "text" }, text),
    el("button", { type: "button", "aria-label": t.close, click: () => shown.remove() }, "×"),
  );
  let timer;
  const wait = () => (timer = setTimeout(() => shown.remove(), STAYS));
  const hold = () => clearTimeout(timer);
  for (const [begins, ends] of [["mouseenter", "mouseleave"], ["focusin", "focusout"]]) {
    shown.addEventListener(begins, hold);
    shown.addEventListener(ends, wait);
  }
  $("toasts").append(shown);
  while ($("toasts").children.length > MOST) $("toasts").firstElementChild.remove();
  wait();
}
