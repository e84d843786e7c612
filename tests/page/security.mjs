// Pages of other origins, hostile texts and hostile mails against the page and the session of an operator who is signed in.
import assert from "node:assert/strict";
import http from "node:http";
import { check, faults, get, open, shoot, signIn, text, visible } from "./browser.mjs";
import { mailServer } from "./services.mjs";
import { HOME, SUPPORT, confirmed, publish, rescheduled, start, stop, until } from "./usher.mjs";

// Another port of the same host: another origin, but the same site, so that its requests have the cookie.
const asked = [];
const attacks = http.createServer((request, answer) => {
  asked.push(request.url);
  answer.writeHead(200, { "content-type": "text/html" });
  answer.end("<!doctype html><title>foreign</title>");
});
await new Promise((done) => attacks.listen(0, "127.0.0.1", done));
const FOREIGN = `http://127.0.0.1:${attacks.address().port}/`;

const evil = `"><img src="${FOREIGN}x" onerror="alert(1)"><script>alert(2)</script><svg onload=alert(3)>`;
const smtp = await mailServer(`550 5.1.1 ${evil}`);
const dead = () => get("api/v1/dead-letters/dead?page_size=100");

await check(async () => {
  await start({ SMTP_PORT: String(smtp.port) });
  await publish(
    confirmed("refused-1", { user_email: "refused@example.com", movie_title: evil }),
    confirmed(`B ${evil}`, { movie_title: evil }),
    rescheduled(`R ${evil}`, evil, { reason: evil, rescheduled_by: evil, new_date: evil }),
    confirmed(`P ${evil}`, { deliver_at: new Date(Date.now() + 86_400_000).toISOString() }),
  );
  await until("one is dead", async () => (await dead()).count === 1);
  const page = await open("en-US,en");
  await signIn(page);

  // Texts of others are texts, everywhere.
  await until("the cause is there", async () => (await page.$$("#letters-causes .cause")).length === 1);
  await page.click("#letters-causes .cause");
  await until("its reply is text", async () => (await text(page, "#letters-list")).includes(evil));
  await until("the name is text", async () => (await text(page, "#moves")).includes(evil));
  await until("planned mail is text", async () => (await text(page, "#planned-list")).includes(evil));
  await page.type("#booking", `B ${evil}`);
  await page.keyboard.press("Enter");
  await until("what was sent is text", async () => (await text(page, "#found")).includes("onerror"));
  await page.click("#found li a");
  await visible(page, "#one-preview iframe");
  await until("the mail is there", async () => page.frames().length === 2 && (await page.frames()[1].evaluate(() => document.body.textContent)).includes("onerror"));
  assert.equal(await page.frames()[1].$("script, img[onerror], svg"), null, "the mail has it as text");
  await shoot(page, "security-delivery");

  // A mail that is hostile itself: with the policy of its answer it asks nobody, and does nothing to the page.
  const [, id] = /([0-9a-f]{32})/.exec(page.url());
  const real = await page.evaluate(async (path) => Object.fromEntries((await fetch(path)).headers), `/api/v1/deliveries/${id}/mail.html`);
  const hostile = `<!doctype html><meta http-equiv="refresh" content="0;url=${FOREIGN}refresh"><link rel="stylesheet" href="${FOREIGN}style">
    <style>@import "${FOREIGN}import"; body { background: url("${FOREIGN}background") }</style>
    <script>top.document.title = "taken"; fetch("${FOREIGN}fetch"); fetch("/api/v1/status");</script>
    <img src="${FOREIGN}image" onerror="top.document.title = 'taken'"><iframe src="${HOME}"></iframe><object data="${FOREIGN}object"></object>
    <form action="${FOREIGN}form" method="post"><button id="form">x</button></form><a id="top" target="_top" href="${FOREIGN}top">x</a>
    <a id="blank" target="_blank" href="${FOREIGN}blank">x</a><a id="self" href="${FOREIGN}self">x</a>`;
  await page.setRequestInterception(true);
  page.on("request", (request) => {
    if (request.url().endsWith("/mail.html")) return request.respond({ status: 200, headers: real, body: hostile });
    return request.continue();
  });
  const before = asked.length;
  const known = faults.length;
  await page.evaluate(() => document.querySelector("#one-preview iframe").replaceWith(document.querySelector("#one-preview iframe").cloneNode()));
  await until("it is shown", async () => page.frames().some((frame) => frame.url().endsWith("/mail.html")) && (await page.$("#one-preview iframe")));
  const frame = await until("its links are there", async () => {
    for (const one of page.frames()) if (await one.$("#self").catch(() => null)) return one;
    return null;
  }).catch(() => null);
  for (const link of ["#form", "#top", "#blank", "#self"]) await (await frame?.$(link))?.click().catch(() => {});
  await new Promise((done) => setTimeout(done, 1500));
  assert.deepEqual(asked.slice(before), [], "a mail asks nobody");
  assert.ok(page.url().startsWith(HOME), "it does not move the page");
  assert.notEqual(await page.title(), "taken");
  assert.equal((await page.browserContext().pages()).length, 1, "it opens no window");
  await page.setRequestInterception(false);
  // The browser says what it blocked.
  const blocked = faults.splice(known);
  for (const what of ["form submission to", "opening", "Framing"]) assert.ok(blocked.some((fault) => fault.includes(`${what} '`)), `${what}: ${blocked}`);

  // The session of somebody who is signed in, used by a page of another origin.
  const ids = (await dead()).results.map((one) => one.id);
  const foreign = await page.browserContext().newPage();
  await foreign.goto(FOREIGN);
  const body = JSON.stringify({ ids, reason: "by a foreign page" });
  const told = await foreign.evaluate(async (home, body) => {
    const path = `${home}api/v1/dead-letters/dead/drop`;
    const all = {};
    for (const [name, options] of Object.entries({
      simple: { method: "POST", mode: "no-cors", headers: { "content-type": "text/plain" }, body },
      json: { method: "POST", headers: { "content-type": "application/json" }, body },
      read: {},
    })) all[name] = await fetch(name === "read" ? `${home}api/v1/status` : path, { credentials: "include", ...options }).then((answer) => answer.type, () => "refused");
    all.socket = await new Promise((done) => {
      const socket = new WebSocket(`${home.replace("http", "ws")}ws/notifications/`);
      socket.onopen = () => done("open");
      socket.onclose = () => done("refused");
    });
    return all;
  }, HOME, body);
  assert.deepEqual(told, { simple: "opaque", json: "refused", read: "refused", socket: "refused" });
  await foreign.evaluate((home, body) => {
    const form = document.createElement("form");
    Object.assign(form, { method: "post", enctype: "text/plain", action: `${home}api/v1/dead-letters/dead/drop` });
    const field = document.createElement("input");
    Object.assign(field, { name: body.slice(0, -1) + ',"by":"', value: '"}' });
    form.append(field);
    document.body.append(form);
    form.submit();
  }, HOME, body);
  await foreign.waitForNavigation({ timeout: 5000 }).catch(() => {});
  assert.equal((await dead()).count, 1, "nothing was done");

  // In a frame of another origin neither the page nor a mail is shown.
  for (const path of ["", `api/v1/deliveries/${id}/mail.html`]) {
    await foreign.goto(FOREIGN);
    await foreign.evaluate((url) => new Promise((done) => {
      const frame = document.createElement("iframe");
      frame.onload = done;
      frame.src = url;
      document.body.append(frame);
    }), HOME + path);
    const framed = foreign.frames()[1];
    assert.match(framed.url(), /^chrome-error:/, `${path} is framed`);
  }
  await foreign.close();

  // Support is refused by the API, not by what the page shows.
  const support = await open("en");
  await signIn(support, SUPPORT);
  const statuses = await support.evaluate(async (ids) => {
    const ask = async (path, body) => (await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })).status;
    return [
      await ask("/api/v1/dead-letters/dead/drop", { ids, reason: "x" }), await ask("/api/v1/dead-letters/dead/replay", { ids, reason: "x" }),
      await ask(`/api/v1/deliveries/${ids[0]}/resend`, { reason: "x" }), await ask(`/api/v1/scheduled/${ids[0]}/cancel`, { reason: "x" }),
    ];
  }, ids);
  assert.deepEqual(statuses, [403, 403, 403, 403]);
  await stop();
  attacks.close();
  assert.deepEqual(faults, []);
});
