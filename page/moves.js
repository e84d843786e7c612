// Rescheduled bookings that were not read.

import { Refused, markAllRead, markRead, unread } from "./api.js";
import { $, el, isProblem, state } from "./dom.js";
import { arrow, ofEventTime, ofMoment, ofNumber, ofState, t } from "./words.js";

let period;
let page = 1;
// What was told while an older question was still on its way is not overwritten by its answer.
let asked = 0;

/** Asks anew, from the first page. */
export async function reload() {
  page = 1;
  await load((items) => $("moves").replaceChildren(...items));
}

async function load(show) {
  const mine = ++asked;
  try {
    const told = await unread(page);
    if (mine !== asked) return;
    period = told.periodo;
    show(told.notificaciones.map(item));
    say("");
    count(told.no_leidas);
    $("moved-more").hidden = told.next === null;
  } catch (error) {
    if (!(error instanceof Refused)) say(t.failed);
  }
}

function count(unread) {
  const badge = $("moved-count");
  badge.hidden = unread === 0;
  badge.replaceChildren(ofNumber(unread), el("span", { class: "unseen" }, ` ${t.unread}`));
  $("moved-empty").hidden = unread !== 0;
  $("read-all").hidden = unread < 2;
  document.title = `${unread ? `(${ofNumber(unread)}) ` : ""}usher · ${t.support}`;
}

const say = (text) => ($("moved-error").textContent = text);

function item(moved) {
  const booking = moved.reserva_id ?? "–";
  const why = [
    moved.motivo,
    moved.reprogramado_por && t.by(moved.reprogramado_por),
    ofMoment(moved.timestamp),
  ].filter(Boolean).join(" · ");
  return el(
    "li", { "data-id": moved.id },
    el("p", { class: "who" }, el("bdi", {}, moved.cliente.nombre ?? t.erased), el("span", { class: "of" }, ` · ${t.bookingOf(booking)}`)),
    el("p", { class: "when" },
      el("span", { class: "unseen" }, t.from), el("del", {}, ofEventTime(moved.fecha_anterior)),
      el("span", {},
        el("span", { "aria-hidden": "true" }, `${arrow} `), el("span", { class: "unseen" }, t.to),
        el("ins", {}, ofEventTime(moved.fecha_nueva))),
      isProblem(moved.estado) ? state(moved.estado, ofState(moved.estado)) : null),
    el("p", { class: "why" }, why),
    el("button", { class: "quiet", type: "button", "aria-label": t.readOf(booking), click: () => read(moved.id) }, t.read),
  );
}

async function read(id) {
  const row = $("moves").querySelector(`[data-id="${CSS.escape(id)}"]`);
  const near = row.nextElementSibling ?? row.previousElementSibling;
  await change(row.querySelectorAll("button"), async () => {
    await markRead([id]);
    // Moves the focus to the next control, so that it is never lost.
    const next = near?.dataset.id;
    await reload();
    const button = next && $("moves").querySelector(`[data-id="${CSS.escape(next)}"] button`);
    (button || $("moved-title")).focus();
  });
}

async function readAll() {
  await change([$("read-all")], async () => {
    await markAllRead(period);
    await reload();
    $("moved-title").focus();
  });
}

async function change(buttons, action) {
  for (const button of buttons) button.disabled = true;
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Refused)) say(t.failed);
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

/** What can be pressed. */
export function start() {
  $("read-all").addEventListener("click", readAll);
  $("moved-more").addEventListener("click", () => {
    page += 1;
    load((items) => {
      $("moves").append(...items);
      items[0]?.querySelector("button").focus();
    });
  });
}
