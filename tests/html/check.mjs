// Checks the HTML parts of a gallery: `usher render --all --out DIR`, then `npm install && node check.mjs DIR`.
// Exits with 1 for any finding that this file does not explain.
import fs from "node:fs";
import path from "node:path";
import { caniemail } from "caniemail";
import { HtmlValidate } from "html-validate";

// Bad style in web pages, but Outlook and Gmail need these. MJML writes them.
const EXPECTED_RULES = {
  "no-inline-style": "Gmail's mobile web mail drops <style>",
  "no-deprecated-attr": "Outlook for Windows lays out by table attributes",
  "no-conditional-comment": "how Outlook for Windows is spoken to",
  "presentation-role-style": "MJML writes role=presentation, which means the same",
  "void-style": "MJML writes XHTML, which some old clients want",
  "doctype-style": "MJML writes <!doctype html>",
  "prefer-native-element": "<article> is unknown to old clients, role=article is not harmful",
  "prefer-tbody": "rows of mj-table stand in <table>",
  "attribute-allowed-values": "MJML gives images height=auto; without it they are distorted in Outlook",
  "long-title": "the subject, which may be long",
};
// Features that some clients lack: rounded corners, dark mode, breaking of long words. The mail is complete and legible
// without each of them.
const DISPENSABLE = [
  "<body> element", "<style> element", "@media", "Chaining selectors", "Class selector", "Descendant combinator",
  "ID selector", "Type selector", "aria-label attribute", "role attribute", "border-radius", "border-spacing",
  "color-scheme meta tag", "cursor", "display:none", "height property", "max-height property", "opacity", "outline",
  "overflow", "overflow-wrap", "table-layout", "target attribute", "word-break", "word-spacing", "white-space",
];
const CLIENTS = ["gmail.*", "outlook.*", "apple-mail.*", "yahoo.*"];

const folder = path.join(process.argv[2], "gallery");
const names = fs.readdirSync(folder).filter((name) => /\.html$/.test(name) && !/\.(page|dark)\.html$/.test(name));
const validator = new HtmlValidate({ extends: ["html-validate:recommended"] });
const findings = new Set();
for (const name of names) {
  const html = fs.readFileSync(path.join(folder, name), "utf8");
  const report = await validator.validateString(html);
  for (const { messages } of report.results) {
    for (const { ruleId, message, line, column } of messages) {
      if (!(ruleId in EXPECTED_RULES)) findings.add(`${name}:${line}:${column}: ${ruleId}: ${message}`);
    }
  }
  for (const [client, issues] of caniemail({ clients: CLIENTS, html }).issues.errors) {
    for (const { title } of issues) {
      if (!DISPENSABLE.includes(title)) findings.add(`${name}: ${title} is unknown to ${client}`);
    }
  }
  // Links may lead anywhere, but nothing may be loaded.
  const loads = /\b(src|srcset|background|poster)\s*=\s*["']?(?!["']?(cid:|data:))/i.test(html) || /url\(|@import/i.test(html);
  if (loads || /href="(?!https?:|mailto:|#)/.test(html) || /<(link|script|iframe|form)\b/i.test(html)) {
    findings.add(`${name}: loads or runs something`);
  }
}
for (const finding of findings) console.log(finding);
console.log(`${names.length} mails, ${findings.size} unexplained findings`);
process.exit(findings.size === 0 && names.length > 0 ? 0 : 1);
