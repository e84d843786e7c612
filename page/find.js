// What was sent: about a booking, to an address, for an event, or the mail of a Message-ID.

import { button } from "./act.js";
import { Refused, about, deliveries, resend } from "./api.js";
import { $, el, state } from "./dom.js";
import { link } from "./one.js";
import { ofError, ofEvent, ofMoment, ofNumber, ofState, t } from "./words.js";

let asked = 0;

/** What can be pressed. */
export function start() {
  $("find-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const booking = $("booking").value.trim();
    if (booking) await find(booking);
  });
}

const MESSAGE_ID = /^<?[0-9a-f]{32}@/i;
const PHONE = /^\+\d/;

async function find(wanted, done) {
  const mine = ++asked;
  say(t.searching);
  $("found").replaceChildren();
  try {
    if (MESSAGE_ID.test(wanted)) return await findOthers(mine, wanted, { message_id: wanted }, done);
    if (wanted.includes("@") || PHONE.test(wanted)) return await findOthers(mine, wanted, { recipient: wanted }, done);
    const booking = wanted;
    const { count, results, esperando } = await about(booking);
    if (mine !== asked) return;
    const waiting = esperando ?? [];
    if (count === 0 && waiting.length === 0 && (await findOthers(mine, wanted, { event: wanted }, done))) return;
    $("found").replaceChildren(...waiting.map(waitingRow), ...results.map((one) => row(one, booking)));
    if (done) say(done);
    else if (esperando === null) say(t.foundUnsure);
    else if (waiting.length > 0) say(t.foundWaiting(waiting.length, booking));
    else if (count === 0) say(t.foundNone(booking));
    else if (count > results.length) say(t.foundFirst(ofNumber(results.length), ofNumber(count), booking));
    else say(t.found(count, booking));
  } catch (error) {
    if (mine === asked) say(error instanceof Refused ? "" : t.failed);
  }
}

/** Whether there is anything of that. */
async function findOthers(mine, wanted, of, done) {
  const { results, more } = await deliveries(of);
  if (mine !== asked) return true;
  $("found").replaceChildren(...results.map((one) => row(asReported(one), wanted)));
  say(done ?? (results.length === 0 ? t.foundNothing(wanted) : more ? t.foundNewest(ofNumber(results.length)) : t.foundOthers(results.length)));
  return results.length > 0;
}

/** With the names that the reports about bookings have. */
const asReported = (one) => ({
  id: one.id, tipo: one.event_type, asunto: one.subject, destinatario: one.recipient, estado: one.status, intentos: one.attempt,
  timestamp: one.at, error: one.error && { tipo: one.error },
});

const say = (text) => ($("found-text").textContent = text);

function waitingRow(one) {
  const why = `${t.waitsSince(ofMoment(one.desde), ofError(one.motivo))} (${one.detalle})`;
  return el(
    "li", {},
    el("time", { class: "at", datetime: one.desde }, ofMoment(one.desde)),
    el("div", { class: "what" }, el("b", {}, ofEvent(one.tipo)), el("small", {}, why), el("small", {}, one.destinatario)),
    state("waiting", ofState("waiting")),
  );
}

/** A mail that was sent can be sent once more. */
function again(one, booking) {
  if (!["sent", "simulated"].includes(one.estado) || !one.destinatario) return null;
  const lines = [ofEvent(one.tipo), one.asunto, one.destinatario];
  return el("div", { class: "acts" }, button(t.resend, `${t.resend}: ${lines.join(", ")}`, {
    title: t.resendAsk, about: lines, home: "find-title",
    run: (reason, key) => resend(one.id, reason, key),
    after: () => find(booking, t.resendDone),
  }));
}

function row(one, booking) {
  const details = [
    one.destinatario ?? t.erased,
    one.intentos > 1 && t.attempt(one.intentos),
    one.error && ofError(one.error.tipo),
  ].filter(Boolean).join(" · ");
  return el(
    "li", {},
    el("time", { class: "at", datetime: one.timestamp }, ofMoment(one.timestamp)),
    el("div", { class: "what" }, el("b", {}, link(one.id, ofEvent(one.tipo))), el("small", { dir: "auto" }, one.asunto), el("small", { dir: "auto" }, details)),
    state(one.estado, ofState(one.estado)),
    again(one, booking),
  );
}
