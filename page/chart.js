// Two charts and their tables.

import { el, svg } from "./dom.js";
import { ofDay, ofError, ofNumber, ofRate, t } from "./words.js";

const TALL = { plot: 132, axis: 24, left: 40 };

/** What was delivered each day, and what was not; as wide as there is room, so that letters keep their size. */
export function perDay(days, width) {
  const all = days.reduce((sum, day) => ({ sent: sum.sent + day.sent, unsent: sum.unsent + day.unsent }), { sent: 0, unsent: 0 });
  const caption = el(
    "figcaption", {}, el("span", {}, t.perDay),
    el("span", { class: "key" }, el("span", { class: "good" }, t.sent), el("span", { class: "bad" }, t.unsent)),
  );
  if (all.sent + all.unsent === 0) return [caption, el("p", { class: "none-yet" }, t.noMail)];
  const rows = days.map(({ day, sent, unsent }) => [ofDay(day), sent, unsent, ofRate(sent + unsent ? (100 * sent) / (sent + unsent) : null)]);
  const label = t.chartOf(days.length, ofNumber(all.sent), ofNumber(all.unsent));
  return [caption, columns(days, label, width), table([t.day, t.sent, t.unsent, t.rate], rows)];
}

function columns(days, label, width) {
  const top = step(Math.max(...days.map((day) => day.sent + day.unsent)));
  const height = (count) => (TALL.plot * count) / top;
  const slot = (width - TALL.left) / days.length;
  const wide = Math.min(28, slot * 0.7);
  const drawn = [0, top / 2, top].filter(Number.isInteger).flatMap((count) => {
    const y = TALL.plot - height(count) + 8;
    return [
      svg("line", { class: "axis", x1: TALL.left, x2: width, y1: y, y2: y }),
      svg("text", { x: TALL.left - 8, y: y + 4, "text-anchor": "end" }, ofNumber(count)),
    ];
  });
  // Labels as many days as fit, and always the last one.
  const every = Math.ceil((days.length * 64) / (width - TALL.left));
  days.forEach(({ day, sent, unsent }, index) => {
    const x = TALL.left + slot * index + (slot - wide) / 2;
    const foot = TALL.plot + 8;
    const title = svg("title", {}, `${ofDay(day)}: ${ofNumber(sent)} / ${ofNumber(unsent)}`);
    drawn.push(svg(
      "g", {}, title,
      svg("rect", { class: "good", x, y: foot - height(sent), width: wide, height: height(sent), rx: Math.min(2, wide / 4) }),
      svg("rect", { class: "bad", x, y: foot - height(sent + unsent), width: wide, height: height(unsent), rx: Math.min(2, wide / 4) }),
    ));
    if ((days.length - 1 - index) % every === 0) {
      drawn.push(svg("text", { x: x + wide / 2, y: TALL.plot + TALL.axis, "text-anchor": "middle" }, ofDay(day)));
    }
  });
  return svg("svg", { class: "columns", viewBox: `0 0 ${width} ${TALL.plot + TALL.axis + 6}`, role: "img", "aria-label": label }, ...drawn);
}

/** The next number that reads well on an axis. */
function step(most) {
  const size = 10 ** Math.floor(Math.log10(Math.max(most, 1)));
  return [1, 2, 3, 4, 6, 8, 10].map((times) => times * size).find((top) => top >= most) ?? most;
}

/** How many errors there were of each kind, the most frequent ones first. */
export function perKind(errors, width) {
  const caption = el("figcaption", {}, t.errors);
  if (errors.length === 0) return [caption, el("p", { class: "none-yet" }, t.noErrors)];
  const shown = errors.slice(0, 6);
  const most = shown[0].count;
  const row = 40;
  const isMirrored = t.dir === "rtl";
  const long = (count) => Math.max(6, (width * count) / most);
  const label = shown.map(({ kind, count }) => `${ofError(kind)}: ${ofNumber(count)}`).join(", ");
  const drawn = shown.flatMap(({ kind, count }, index) => [
    svg("text", { class: "label", x: isMirrored ? width : 0, y: index * row + 12 }, ofError(kind)),
    svg("text", { class: "label", x: isMirrored ? 0 : width, y: index * row + 12, "text-anchor": "end" }, ofNumber(count)),
    svg("rect", { class: "rest", x: 0, y: index * row + 19, width, height: 6, rx: 3 }),
    svg("rect", { class: "bad", x: isMirrored ? width - long(count) : 0, y: index * row + 19, width: long(count), height: 6, rx: 3 }),
  ]);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${shown.length * row - 8}`, role: "img", "aria-label": label }, ...drawn);
  return [caption, drawing, table([t.kind, t.number], errors.map(({ kind, count }) => [ofError(kind), count]))];
}

function table(head, rows) {
  const cell = (value) => el("td", {}, typeof value === "number" ? ofNumber(value) : value);
  const line = ([first, ...rest]) => el("tr", {}, el("th", { scope: "row" }, first), ...rest.map(cell));
  return el(
    "details", {}, el("summary", {}, t.asTable),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": head.join(", ") }, el(
      "table", {},
      el("thead", {}, el("tr", {}, ...head.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...rows.map(line)),
    )),
  );
}
