// Mail that is planned for later.

import { Refused, decidePlanned, planned } from "./api.js";
import { button } from "./act.js";
import { $, el } from "./dom.js";
import { ofEvent, ofMoment, t } from "./words.js";

let asked = 0;
let page = 1;

/** What can be pressed. */
export function start() {
  $("planned-form").addEventListener("submit", (event) => {
    event.preventDefault();
    reload();
  });
  $("planned-more").addEventListener("click", () => {
    page += 1;
    load((items) => {
      $("planned-list").append(...items);
      items[0]?.querySelector("button")?.focus();
    });
  });
}

/** Asks anew, from the first page. */
export async function reload() {
  page = 1;
  await load((items) => $("planned-list").replaceChildren(...items));
}

async function load(show) {
  const mine = ++asked;
  try {
    const told = await planned($("planned-of").value.trim(), page);
    if (mine !== asked) return;
    show(told.results.map(row));
    $("planned-text").textContent = told.count === 0 ? t.plannedNone : t.plannedCount(told.count);
    $("planned-more").hidden = told.next === null;
    $("planned-error").textContent = "";
  } catch (error) {
    if (mine === asked && !(error instanceof Refused)) $("planned-error").textContent = t.failed;
  }
}

function row(one) {
  const about = [ofEvent(one.event_type), one.booking_id && t.bookingOf(one.booking_id), one.recipient].filter(Boolean);
  const act = (decision, word, title, done) => button(word, `${word}: ${about.join(", ")}`, {
    title, about: [...about, t.due(ofMoment(one.due))], home: "planned-title",
    run: (reason, key) => decidePlanned(one.id, decision, reason, key),
    refused: reload,
    after: async () => {
      await reload();
      $("planned-text").textContent = done;
    },
  });
  return el(
    "li", {},
    el("time", { class: "at", datetime: one.due }, ofMoment(one.due)),
    el("div", { class: "what" }, el("b", {}, about[0]), ...about.slice(1).map((line) => el("small", { dir: "auto" }, line))),
    el("div", { class: "acts" }, act("send-now", t.sendNow, t.sendNowAsk, t.sendNowDone), act("cancel", t.cancelMail, t.cancelAsk, t.cancelDone)),
  );
}

/** Takes it off the screen. */
export function forget() {
  asked += 1;
  for (const id of ["planned-list", "planned-text"]) $(id).replaceChildren();
}
