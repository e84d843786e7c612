// Elements, made without any HTML in strings.

export const $ = (id) => document.getElementById(id);

/** An element with attributes and children; texts become text. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for a drawing. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const TONES = {
  sent: "good", simulated: "good", retrying: "wait", waiting: "wait", unknown: "wait",
  failed: "bad", rejected: "bad", suppressed: "none", superseded: "none",
  delivered: "good", bounced: "bad", complained: "bad",
};

/** A delivery's state: a word, and a dot in the colour of its tone. */
export const state = (status, word) => el("span", { class: `state ${TONES[status] ?? "none"}` }, word);
export const isProblem = (status) => ["bad", "wait"].includes(TONES[status]);
