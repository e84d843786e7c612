// The live list: one row for each delivery, which changes as the delivery goes on.

import { session } from "./api.js";
import { $, el, isProblem, state } from "./dom.js";
import { link } from "./one.js";
import { ofError, ofEvent, ofMoment, ofState, t } from "./words.js";

const MOST = 100;
const MOVED = "reprogramacion";
const WAITS = { first: 1000, longest: 30_000 };
// Close code: what follows the token is not known any more.
const GONE = 4410;

const messages = new Map();
let socket;
let token;
let wait = WAITS.first;
let timer;
let isWanted = false;
let onMoved = () => {};
let onGap = () => {};

/** What can be chosen, and when not to wait: a laptop that wakes up. */
export function start() {
  $("show").addEventListener("change", draw);
  addEventListener("online", () => isWanted && connect());
  document.addEventListener("visibilitychange", () => isWanted && !document.hidden && !socket && connect());
}

/** Listens from now on. `moved` is called with each reschedule, `gap` where something may have been missed. */
export function listen({ moved, gap }) {
  isWanted = true;
  onMoved = moved;
  onGap = gap;
  connect();
}

/** Ends it. */
export function stop() {
  isWanted = false;
  hangUp();
}

function hangUp() {
  clearTimeout(timer);
  const open = socket;
  socket = undefined;
  open?.close();
}

/** Takes everything off the screen, for whoever signs in next. */
export function forget() {
  messages.clear();
  token = undefined;
  draw();
}

function connect() {
  hangUp();
  say("wait", token ? t.again : t.connecting);
  const query = token ? `?${new URLSearchParams({ since: token })}` : "";
  const mine = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/notifications/${query}`);
  socket = mine;
  mine.addEventListener("message", ({ data }) => hear(JSON.parse(data)));
  mine.addEventListener("close", ({ code }) => {
    if (socket !== mine) return;
    socket = undefined;
    say("off", t.again);
    if (code === GONE) {
      token = undefined;
      note(t.liveGap);
      onGap();
    }
    timer = setTimeout(again, wait * (0.75 + Math.random() / 2));
    wait = Math.min(wait * 2, WAITS.longest);
  });
}

async function again() {
  // A refused socket gives no reason; signing in may be enough.
  try {
    await session();
  } catch {
    // usher is unreachable; the next try reports it.
  }
  if (isWanted) connect();
}

function hear(message) {
  token = message.token;
  if (message.type === "ready") {
    wait = WAITS.first;
    say("live", t.isLive);
    return;
  }
  const known = messages.get(message.id);
  // The newest comes first, wherever it was.
  messages.delete(message.id);
  messages.set(message.id, { ...message, moved: known?.moved || message.type === MOVED });
  if (messages.size > MOST) messages.delete(messages.keys().next().value);
  draw(message.id);
  if (message.type === MOVED && !known) onMoved(message);
}

let isDue = false;
let newest;

/** At most once for each picture, however much comes. */
function draw(id) {
  newest = typeof id === "string" ? id : undefined;
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    const shown = [...messages.values()].reverse().filter(isShown);
    // A link that has the focus keeps it.
    const focus = $("feed").contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    $("feed").replaceChildren(...shown.map(row));
    if (focus) $("feed").querySelector(`[href="${focus}"]`)?.focus({ preventScroll: true });
    $("live-empty").hidden = shown.length > 0;
    $("roll").hidden = shown.length === 0;
  });
}

function isShown(message) {
  if (message.note) return true;
  const wanted = $("show").value;
  return wanted === "all" || (wanted === "moved" ? message.moved : isProblem(message.estado));
}

function row(message) {
  if (message.note) return el("li", { class: "gap" }, message.note);
  const booking = message.reserva_id && t.bookingOf(message.reserva_id);
  const details = [
    booking,
    message.canal && (t.channels[message.canal] ?? message.canal),
    message.intento > 1 && t.attempt(message.intento),
    message.error && ofError(message.error),
  ].filter(Boolean).join(" · ");
  return el(
    "li", { class: message.id === newest ? "new" : null },
    el("time", { class: "at", datetime: message.timestamp }, ofMoment(message.timestamp)),
    el("div", { class: "what" }, el("b", {}, link(message.id, ofEvent(message.evento))), el("small", {}, details)),
    state(message.estado, ofState(message.estado)),
  );
}

function note(text) {
  messages.set(Symbol("note"), { note: text });
  draw();
}

function say(is, text) {
  $("status").hidden = false;
  $("status").dataset.is = is;
  $("status-text").textContent = text;
}
