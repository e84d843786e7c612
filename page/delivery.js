// How delivery went.

import { Refused, delivery } from "./api.js";
import { perDay, perKind } from "./chart.js";
import { $, el } from "./dom.js";
import { ofNumber, ofRate, t } from "./words.js";

let asked = 0;
let draw = () => {};

/** What can be chosen. */
export function start() {
  for (const choice of ["of", "period"]) $(choice).addEventListener("change", reload);
  addEventListener("resize", () => requestAnimationFrame(draw));
}

/** Asks anew. */
export async function reload() {
  const mine = ++asked;
  const card = $("delivery");
  card.ariaBusy = "true";
  try {
    const told = await delivery($("of").value, Number($("period").value));
    if (mine !== asked) return;
    const tile = ([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
    const tiles = [[t.rate, ofRate(told.rate)], [t.sent, ofNumber(told.sent)], [t.unsent, ofNumber(told.unsent)]];
    $("tiles").replaceChildren(...tiles.map(tile));
    draw = () => {
      show($("rate"), (width) => perDay(told.perDay, width));
      show($("errors"), (width) => perKind(told.errors, width));
    };
    draw();
    $("delivery-error").textContent = "";
  } catch (error) {
    if (mine === asked && !(error instanceof Refused)) $("delivery-error").textContent = t.failed;
  } finally {
    if (mine === asked) card.ariaBusy = "false";
  }
}

/** A table that stands open stays so, and so does the focus on it. */
function show(figure, drawn) {
  const before = figure.querySelector("details");
  const hadFocus = before?.contains(document.activeElement);
  figure.replaceChildren(...drawn(Math.max(figure.clientWidth, 240)));
  const after = figure.querySelector("details");
  if (after && before?.open) after.open = true;
  if (after && hadFocus) after.querySelector("summary").focus({ preventScroll: true });
}

/** Takes it off the screen. */
export function forget() {
  draw = () => {};
  for (const id of ["rate", "errors"]) $(id).replaceChildren();
}
