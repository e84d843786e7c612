// Chromium for the checks: whatever is blocked, fails, comes from elsewhere or is not accessible is a fault.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import puppeteer from "puppeteer-core";
import { HOME, TOKEN, log, until } from "./usher.mjs";

const folder = process.argv[2];
const axe = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const WIDTHS = { phone: { width: 375, height: 812 }, desk: { width: 1280, height: 900 } };

export const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM,
  args: process.getuid() === 0 ? ["--no-sandbox"] : [],
});
export const faults = [];

/** A page of its own. */
export async function open(language) {
  const page = await (await browser.createBrowserContext()).newPage();
  const session = await page.createCDPSession();
  await session.send("Network.enable");
  const agent = (await browser.userAgent()).replace("Headless", "");
  await session.send("Emulation.setUserAgentOverride", { userAgent: agent, acceptLanguage: language });
  await page.setViewport(WIDTHS.desk);
  await page.evaluateOnNewDocument(() => {
    window.violations = [];
    addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
  });
  page.on("pageerror", (error) => faults.push(`error in the page: ${error.message}`));
  page.on("dialog", (dialog) => {
    faults.push(`a dialog of a script: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("console", (message) => {
    // What is refused on purpose, or while usher or what it needs is away.
    if (/40[139]|503|ERR_CONNECTION_REFUSED|WebSocket connection/.test(message.text())) return;
    if (["error", "warn", "issue"].includes(message.type())) faults.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(HOME)) faults.push(`a request to ${request.url()}`);
  });
  await page.goto(HOME, { waitUntil: "load" });
  return page;
}

export const visible = (page, selector) => page.waitForSelector(selector, { visible: true, timeout: 90_000 });
export const text = (page, selector) => page.$eval(selector, (element) => element.textContent.trim());
export const focused = (page) => page.evaluate(() => document.activeElement?.id || document.activeElement?.textContent);

/** Without the mail in its frame, where axe can't run; `tests/html` looks at mails. */
export async function accessible(page, where) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"], iframes: false }));
  for (const { id, help, nodes } of violations) faults.push(`${where}: ${id}: ${help}: ${nodes.map((node) => node.html).join(" ").slice(0, 300)}`);
  for (const violation of await page.evaluate(() => window.violations)) faults.push(`${where}: blocked: ${violation}`);
}

/** In both schemes and widths: accessible, nothing cut off, and a picture to look at. */
export async function shoot(page, name) {
  for (const [kind, viewport] of Object.entries(WIDTHS)) {
    await page.setViewport(viewport);
    for (const scheme of ["light", "dark"]) {
      await page.emulateMediaFeatures([
        { name: "prefers-color-scheme", value: scheme },
        { name: "prefers-reduced-motion", value: "reduce" },
      ]);
      await accessible(page, `${name} ${kind} ${scheme}`);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (over > 0) faults.push(`${name} ${kind}: ${over} pixels wider than the screen`);
      await page.evaluate(() => scrollTo(0, 0));
      await page.screenshot({ path: path.join(folder, `${name}-${viewport.width}-${scheme}.png`), fullPage: true });
    }
  }
  await page.setViewport(WIDTHS.desk);
}

const headers = { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" };
export const get = async (path) => (await fetch(HOME + path, { headers })).json();
export const post = (path, body) => fetch(HOME + path, { method: "POST", headers, body: JSON.stringify(body) });

/** Gives the dialog a reason, and waits until it is done. */
export async function giveReason(page, done) {
  await visible(page, "#act");
  await page.type("#act-reason", "as the customer asked");
  await done();
  await until("the dialog is closed", async () => !(await page.$eval("#act", (dialog) => dialog.open)));
}

export async function signIn(page, token = TOKEN) {
  await visible(page, "#token");
  await page.type("#token", token);
  await page.keyboard.press("Enter");
  await visible(page, "#status[data-is=live]");
}

/** Runs a check, says what is not as it should be, and ends with 1 if anything is not. */
export async function check(run) {
  try {
    await run();
  } catch (error) {
    faults.push(error.stack, log());
    const contexts = await Promise.all(browser.browserContexts().map((context) => context.pages()));
    for (const [number, page] of contexts.flat().entries()) {
      await page.screenshot({ path: path.join(folder, `failed-${number}.png`), fullPage: true }).catch(() => {});
    }
  } finally {
    await browser.close();
  }
  for (const fault of new Set(faults)) console.log(fault);
  console.log(`${path.basename(process.argv[1])}: ${new Set(faults).size} faults; pictures in ${folder}`);
  process.exit(faults.length === 0 ? 0 : 1);
}
