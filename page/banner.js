// What needs somebody's attention, in usher's own words, above everything else.

import { Refused, status } from "./api.js";
import { $, el } from "./dom.js";
import { ofMoment, t } from "./words.js";

let told;

/** Asks anew. */
export async function reload() {
  try {
    told = await status();
    show(told.alarms, t.asOf(ofMoment(told.at)));
  } catch (error) {
    // What was told last stays, and says since when.
    if (!(error instanceof Refused)) show(told?.alarms ?? [], told ? t.staleSince(ofMoment(told.at)) : t.failed);
  }
}

function show(alarms, when) {
  const lines = alarms.map((alarm) => el("li", { lang: "en", dir: "auto" }, alarm));
  // Screen readers are told only of what changed.
  if ($("alarms").textContent !== alarms.join("")) $("alarms").replaceChildren(...lines);
  $("banner-at").textContent = when;
  $("banner").hidden = alarms.length === 0;
}

/** Takes it off the screen. */
export function forget() {
  told = undefined;
  show([], "");
}
