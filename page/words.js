// What the page says, in the browser's language: the words of a file, words.<language>.json, that usher chooses.

const answer = await fetch("/page/words.json");
const words = await answer.json();
export const language = answer.headers.get("content-language") ?? "en";

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const plural = new Intl.PluralRules(language);

/** The words by their names in the file; those with places are functions. */
export const t = {
  ...words,
  readOf: (booking) => fill(words.readOf, { booking }),
  bookingOf: (booking) => fill(words.bookingOf, { booking }),
  by: (name) => fill(words.by, { name }),
  found: (count, booking) => fill(words.found[plural.select(count)] ?? words.found.other, { count: ofNumber(count), booking }),
  foundFirst: (shown, count, booking) => fill(words.foundFirst, { shown, count, booking }),
  foundWaiting: (count, booking) => fill(words.foundWaiting[plural.select(count)] ?? words.foundWaiting.other, { count: ofNumber(count), booking }),
  waitsSince: (since, why) => fill(words.waitsSince, { since, why }),
  foundNone: (booking) => fill(words.foundNone, { booking }),
  chartOf: (days, sent, unsent) => fill(words.chartOf, { days, sent, unsent }),
  toastTitle: (booking) => fill(words.toastTitle, { booking }),
  toastText: (name) => fill(words.toastText, { name }),
  lettersCount: (count) => fill(words.lettersCount[plural.select(count)] ?? words.lettersCount.other, { count: ofNumber(count) }),
  chosen: (count) => fill(words.chosen[plural.select(count)] ?? words.chosen.other, { count: ofNumber(count) }),
  choose: (name) => fill(words.choose, { name }),
  andMore: (count) => fill(words.andMore, { count: ofNumber(count) }),
  doneOf: (done, count) => fill(words.doneOf, { done: ofNumber(done), count: ofNumber(count) }),
  oldestOf: (time) => fill(words.oldestOf, { time }),
  shownOf: (shown, count) => fill(words.shownOf, { shown, count }),
  knownAt: (time) => fill(words.knownAt, { time }),
  replayedBy: (name, time) => fill(words.replayedBy, { name, time }),
  foundNothing: (of) => fill(words.foundNothing, { of }),
  foundNewest: (shown) => fill(words.foundNewest, { shown }),
  foundOthers: (count) => fill(words.foundOthers[plural.select(count)] ?? words.foundOthers.other, { count: ofNumber(count) }),
  nextAt: (time) => fill(words.nextAt, { time }),
  mailDiffers: (why) => fill(words.mailDiffers, { why }),
  mailNotShown: (why) => fill(words.mailNotShown, { why }),
  asOf: (time) => fill(words.asOf, { time }),
  staleSince: (time) => fill(words.staleSince, { time }),
  due: (time) => fill(words.due, { time }),
  plannedCount: (count) => fill(words.plannedCount[plural.select(count)] ?? words.plannedCount.other, { count: ofNumber(count) }),
  attempt: (number) => fill(words.attempt, { number }),
};

// The browser's own variant (en-GB, es-MX) decides how numbers and dates are written.
const locale = navigator.languages.find((tag) => tag.startsWith(language)) ?? language;
const number = new Intl.NumberFormat(locale, { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(locale, { timeStyle: "medium" });
const moment = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
const exact = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "long" });
const onWrittenClock = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" });
const dayOfMonth = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short", timeZone: "UTC" });

/** From before to after, as it is read. */
export const arrow = words.dir === "rtl" ? "←" : "→";
export const ofNumber = (value) => number.format(value);
export const ofRate = (value) => (value == null ? "–" : `${number.format(value)} %`);
export const ofDay = (day) => dayOfMonth.format(new Date(`${day}T00:00:00Z`));

const isToday = (date) => date.toDateString() === new Date().toDateString();

/** A moment that usher recorded: only the clock's time if it was today. */
export function ofMoment(time) {
  const date = new Date(time);
  return (isToday(date) ? clock : moment).format(date);
}

/** With the date, the second and the zone. */
export const ofExactMoment = (time) => exact.format(new Date(time));

/** A time as an event has it, which may be any text: on the clock that it was written by, as in the customer's mail. */
export function ofEventTime(time) {
  const onClock = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)/.exec(time ?? "");
  const date = onClock ? new Date(`${onClock[1]}T${onClock[2]}Z`) : new Date(NaN);
  return Number.isNaN(date.getTime()) ? (time ?? "–") : onWrittenClock.format(date);
}

const spelled = (words, word) => words[word] ?? word;
export const ofState = (state) => spelled(t.states, state);
export const ofEvent = (kind) => spelled(t.events, kind);
export const ofReceipt = (status) => spelled(t.receiptStates, status);
export const ofAction = (action) => spelled(t.actionNames, action);
export const ofError = (kind) => spelled(t.errorKinds, kind);

/** Puts the words in their places. */
export function translate() {
  document.documentElement.lang = language;
  document.documentElement.dir = words.dir;
  for (const place of document.querySelectorAll("[data-t]")) place.textContent = t[place.dataset.t];
  const { timeZone } = exact.resolvedOptions();
  const offset = new Intl.DateTimeFormat("en", { timeZoneName: "longOffset" }).formatToParts().find(({ type }) => type === "timeZoneName").value;
  document.getElementById("zone").textContent = fill(words.zone, { zone: `${timeZone} (${offset.replace("GMT", "UTC")})` });
  for (const place of document.querySelectorAll("[data-t-label]")) place.ariaLabel = t[place.dataset.tLabel];
}
