// One delivery: its attempts, the server's replies, receipts, what operators did, and its mail. It has an address of its own.

import { Problem, Refused, mailOf, oneDelivery } from "./api.js";
import { $, el, state } from "./dom.js";
import { ofAction, ofError, ofEvent, ofExactMoment, ofReceipt, ofState, t } from "./words.js";

const PLACE = /^#delivery\/([0-9a-f]{32})$/;
let asked = 0;
let opener;

/** A link to a delivery's own page. */
export const link = (id, text) => el("a", { href: `#delivery/${id}` }, text);

/** The delivery that the address names, if it does. */
export const named = () => PLACE.exec(location.hash)?.[1];

/** Shows the delivery that the address names, or the desk. */
export async function show() {
  const id = named();
  const wasHidden = $("one").hidden;
  $("one").hidden = id === undefined;
  $("desk").hidden = id !== undefined;
  clear();
  if (id === undefined) {
    if (!wasHidden) (opener?.isConnected ? opener : $("find-title")).focus();
    return;
  }
  if (wasHidden) opener = document.activeElement;
  scrollTo(0, 0);
  $("one-title").focus();
  await load(id);
}

async function load(id) {
  const mine = ++asked;
  try {
    const one = await oneDelivery(id);
    if (mine !== asked) return;
    draw(one);
    await drawMail(id, mine);
  } catch (error) {
    if (mine !== asked || error instanceof Refused) return;
    $("one-error").textContent = error.status === 404 ? t.noDelivery : t.failed;
  }
}

function draw(one) {
  $("one-title").textContent = one.subject || ofEvent(one.event_type);
  const booking = one.correlation.booking_id;
  const facts = [
    [t.recipient, one.recipient ?? t.erased], [t.event, `${ofEvent(one.event_type)} · ${one.event_id}`], [t.bookingNumber, booking],
    [t.route, one.route], ["Message-ID", one.message_id], [t.deliveryId, one.id],
  ];
  const fact = ([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { dir: "auto" }, value));
  $("one-facts").replaceChildren(...facts.filter(([, value]) => value).map(fact));
  list("attempts", one.attempts.map((attempt) => {
    const reply = attempt.reply && `${attempt.reply.server} ${attempt.reply.command}: ${attempt.reply.code} ${attempt.reply.text}`;
    const words = [reply ?? attempt.message, attempt.due && t.nextAt(ofExactMoment(attempt.due))];
    return row(attempt.at, t.attempt(attempt.number), [attempt.error && ofError(attempt.error), ...words], state(attempt.status, ofState(attempt.status)));
  }));
  list("receipts", one.receipts.map((receipt) =>
    row(receipt.at, ofReceipt(receipt.status), [[receipt.bounce, receipt.code].filter(Boolean).join(" "), receipt.detail])));
  list("actions", one.actions.map((action) => {
    const changes = action.changes.map(({ field, before, after }) => `${field}: ${before ?? "–"} → ${after ?? "–"}`);
    const shown = row(action.at, ofAction(action.action), [`${action.by}: ${action.reason}`, action.outcome, ...changes]);
    if (action.other) shown.querySelector(".what").append(link(action.other, t.otherDelivery));
    return shown;
  }));
}

function row(at, title, lines, beside = null) {
  return el(
    "li", {},
    el("time", { class: "at", datetime: at }, at ? ofExactMoment(at) : "–"),
    el("div", { class: "what" }, el("b", {}, title), ...lines.filter(Boolean).map((line) => el("small", { dir: "auto" }, line))),
    beside,
  );
}

function list(name, rows) {
  $(`one-${name}`).replaceChildren(...rows);
  $(`one-${name}-part`).hidden = rows.length === 0;
}

/** What stands in the mail can do nothing: the frame runs no scripts, and its policy allows no requests. */
async function drawMail(id, mine) {
  try {
    const mail = await mailOf(id);
    if (mine !== asked) return;
    $("one-mail-text").textContent = mail.differs ? t.mailDiffers(mail.differs) : "";
    $("one-preview").replaceChildren(el("iframe", {
      sandbox: "", referrerpolicy: "no-referrer", title: mail.subject, src: `/api/v1/deliveries/${id}/mail.html`,
    }));
    $("one-plain").textContent = mail.text;
    $("one-source").textContent = mail.html;
    $("one-mail-parts").hidden = false;
  } catch (error) {
    if (mine !== asked || error instanceof Refused) return;
    $("one-mail-text").textContent = error instanceof Problem && error.detail ? t.mailNotShown(error.detail) : t.failed;
  }
}

function clear() {
  asked += 1;
  for (const id of ["title", "error", "facts", "attempts", "receipts", "actions", "mail-text", "preview", "plain", "source"]) $(`one-${id}`).replaceChildren();
  for (const id of ["attempts-part", "receipts-part", "actions-part", "mail-parts"]) $(`one-${id}`).hidden = true;
}

/** Takes it off the screen. */
export function forget() {
  clear();
  $("one").hidden = true;
}
