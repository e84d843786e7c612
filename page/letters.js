// Messages that wait for an operator, by cause. What is decided is decided about those that were chosen, whatever comes meanwhile.

import { ask, isAllowed } from "./act.js";
import { Refused, decideLetters, letters } from "./api.js";
import { $, el } from "./dom.js";
import { link } from "./one.js";
import { ofError, ofEvent, ofMoment, ofNumber, t } from "./words.js";

// As many as one request may decide about.
const MOST = 500;
// Names in the dialog; the others are counted.
const NAMED = 20;
const DECISIONS = {
  dead: [["replay", "resend"], ["drop", "drop"]],
  poison: [["replay", "processAgain"], ["drop", "drop"]],
  parked: [["replay", "resend"], ["drop", "hasArrived", "delivered"], ["drop", "isLost", "lost"], ["drop", "isVoid", "void"]],
};

let asked = 0;
let knownAt;
let causes = [];
let open;
let page = 1;

/** What can be pressed. */
export function start() {
  $("queue").addEventListener("change", () => {
    forget();
    reload();
  });
  $("letters-again").addEventListener("click", () => reload(open));
  $("letters-more").addEventListener("click", () => more());
  $("letters-all").addEventListener("change", () => {
    for (const box of boxes()) box.checked = $("letters-all").checked;
    count();
  });
  $("letters-list").addEventListener("change", count);
}

/** Asks anew, and shows the letters of a cause again that was open. */
export async function reload(again) {
  await load({}, (told) => {
    causes = told.causes;
    close();
    draw();
    $("letters-text").textContent = told.count === 0 ? t.lettersNone : t.lettersCount(told.count);
    const still = again && causes.find((cause) => isSame(cause, again));
    if (still) show(still);
  });
}

/** Asks, and shows the answer, unless something else was asked meanwhile. What cannot be read leaves what was known. */
async function load(query, use) {
  const mine = ++asked;
  const queue = $("queue").value;
  $("letters").ariaBusy = "true";
  try {
    const told = await letters(queue, query);
    if (mine !== asked) return;
    use(told);
    knownAt = new Date();
    $("letters-at").textContent = t.asOf(ofMoment(knownAt));
    $("letters-error").textContent = "";
  } catch (error) {
    if (mine !== asked || error instanceof Refused) return;
    $("letters-error").textContent = [t.failed, knownAt && t.knownAt(ofMoment(knownAt))].filter(Boolean).join(" ");
  } finally {
    if (mine === asked) $("letters").ariaBusy = "false";
  }
}

const isSame = (one, other) => one?.error === other?.error && one?.detail === other?.detail;
const nameOf = (cause) => cause.detail ?? ofError(cause.error);

/** One button for each cause, which opens it. The one that is open stays, even if nothing of it waits any more. */
function draw() {
  const hadFocus = $("letters-causes").contains(document.activeElement);
  const shown = open && !causes.some((cause) => isSame(cause, open)) ? [{ ...open, count: 0 }, ...causes] : causes;
  $("letters-causes").replaceChildren(...shown.map((cause) => {
    const isOpen = isSame(cause, open);
    const since = cause.count > 0 ? el("small", {}, t.oldestOf(ofMoment(cause.oldest))) : null;
    const button = el(
      "button", { type: "button", class: "cause", "aria-expanded": String(isOpen), click: () => (isSame(cause, open) ? shut() : show(cause)) },
      el("b", { class: "count-of" }, ofNumber(cause.count)), el("span", { class: "what", dir: "auto" }, nameOf(cause), since),
    );
    const row = el("li", {}, button);
    if (isOpen) row.append($("letters-open"));
    return row;
  }));
  if (hadFocus) $("letters-causes").querySelector("[aria-expanded=true]")?.focus();
}

/** Opens a cause. */
async function show(cause) {
  page = 1;
  await load({ ...cause, page }, (told) => {
    close();
    open = cause;
    $("letters-list").replaceChildren(...told.results.map(row));
    place();
    told.results.length > 0 ? tell(told) : reload();
  });
}

async function more() {
  page += 1;
  await load({ ...open, page }, (told) => {
    // What came meanwhile moves the pages.
    const known = new Set([...$("letters-list").children].map((one) => one.dataset.id));
    const rows = told.results.filter((one) => !known.has(one.id)).map(row);
    $("letters-list").append(...rows);
    rows[0]?.querySelector("input")?.focus();
    tell(told);
  });
}

function tell(told) {
  const shown = $("letters-list").children.length;
  $("letters-shown").textContent = shown < told.count ? t.shownOf(ofNumber(shown), ofNumber(told.count)) : "";
  $("letters-more").hidden = told.next === null || shown >= MOST;
  $("letters-acts").hidden = !isAllowed();
  const queue = $("queue").value;
  $("letters-decisions").replaceChildren(...DECISIONS[queue].map(([decision, word, outcome]) =>
    el("button", { class: "quiet", type: "button", click: () => decide(decision, t[word], outcome) }, t[word])));
  count();
}

/** Puts what is open below its cause. */
function place() {
  $("letters-open").hidden = false;
  draw();
}

/** Closes what is open, with the focus on its cause. */
function shut() {
  asked += 1;
  $("letters").ariaBusy = "false";
  close();
  draw();
}

function close() {
  open = undefined;
  $("letters-open").hidden = true;
  $("letters").append($("letters-open"));
  for (const id of ["letters-list", "letters-done"]) $(id).replaceChildren();
}

function row(one) {
  const name = [ofEvent(one.event_type), one.recipient || t.erased].filter(Boolean).join(", ");
  const why = [one.error && ofError(one.error), one.message].filter(Boolean).join(": ");
  const replayed = one.replayed && t.replayedBy(one.replayed.by, ofMoment(one.replayed.at));
  const box = el("input", { type: "checkbox", value: one.id, "data-name": name, "aria-label": t.choose(`${name}, ${ofMoment(one.at)}`) });
  return el(
    "li", { "data-id": one.id },
    isAllowed() ? box : el("span"),
    el("div", { class: "what" },
      el("b", { dir: "auto" }, link(one.id, ofEvent(one.event_type))), el("small", { dir: "auto" }, one.recipient || t.erased), el("small", { dir: "auto" }, why),
      replayed ? el("small", { dir: "auto" }, replayed) : null),
    el("time", { class: "at", datetime: one.at }, ofMoment(one.at)),
  );
}

const boxes = () => [...$("letters-list").querySelectorAll("input")];
const chosen = () => boxes().filter((box) => box.checked);

function count() {
  const number = chosen().length;
  $("letters-chosen").textContent = t.chosen(number);
  $("letters-all").checked = number > 0 && number === boxes().length;
  $("letters-all").indeterminate = number > 0 && number < boxes().length;
  $("letters-all").disabled = boxes().length === 0;
  for (const button of $("letters-decisions").children) button.disabled = number === 0;
}

function decide(decision, word, outcome) {
  const [queue, those] = [$("queue").value, chosen()];
  const ids = those.map((box) => box.value);
  const about = those.slice(0, NAMED).map((box) => box.dataset.name);
  if (those.length > NAMED) about.push(t.andMore(those.length - NAMED));
  if (queue === "parked" && decision === "replay") about.unshift(t.mayArriveTwice);
  ask({
    title: `${word} (${ofNumber(ids.length)})`, word, about, home: "letters-title",
    run: (reason) => decideLetters(queue, decision, ids, reason, outcome),
    after: ({ results }) => answered(queue, results),
  });
}

/** Says at each letter what came of it. Those that are still there can be chosen again. */
function answered(queue, results) {
  if (queue !== $("queue").value) return;
  for (const one of results) {
    const item = $("letters-list").querySelector(`[data-id="${CSS.escape(one.id)}"]`);
    const box = item?.querySelector("input");
    if (!box) continue;
    item.querySelector(".answer")?.remove();
    const detail = one.detail ? el("small", { lang: "en", dir: "auto" }, one.detail) : null;
    item.querySelector(".what").append(el("p", { class: `answer ${one.outcome}` }, el("b", {}, t.outcomes[one.outcome]), detail));
    if (one.outcome === "done" || one.outcome === "gone") box.replaceWith(el("span"));
    else box.checked = false;
  }
  const done = results.filter((one) => one.outcome === "done").length;
  $("letters-done").textContent = t.doneOf(done, results.length);
  count();
  // The counts change; what is open stays as it is, with its answers.
  return load({}, (told) => {
    causes = told.causes;
    $("letters-text").textContent = told.count === 0 ? t.lettersNone : t.lettersCount(told.count);
    draw();
  });
}

/** Takes it off the screen. */
export function forget() {
  asked += 1;
  causes = [];
  knownAt = undefined;
  close();
  draw();
  for (const id of ["letters-text", "letters-at", "letters-error"]) $(id).replaceChildren();
}
