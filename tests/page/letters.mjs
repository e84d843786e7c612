// What waits for an operator: found by cause, chosen, decided by keyboard and mouse, also where others decide or something is down.
import assert from "node:assert/strict";
import { check, faults, focused, get, giveReason, open, post, shoot, signIn, text, visible } from "./browser.mjs";
import { mailServer } from "./services.mjs";
import { HOME, SUPPORT, confirmed, mongodb, publish, publishAnything, rabbitmq, start, stop, until } from "./usher.mjs";

const evil = `<img src="${HOME}x" onerror="alert(1)"><script>alert(2)</script>`;
const smtp = await mailServer(`550 5.1.1 ${evil} no such user`);


const waiting = (queue) => get(`api/v1/dead-letters/${queue}?page_size=100`);
const refused = (name) => confirmed(name, { user_email: `refused.${name}@example.com`.toLowerCase(), movie_title: evil });
const untilWaiting = (queue, count) => until(`${count} wait in ${queue}`, async () => (await waiting(queue)).count === count);

/** The causes that a page shows, each with its number. */
const causes = (page) => page.$$eval("#letters-causes .cause", (all) => all.map((one) => [one.querySelector(".what").firstChild.textContent, Number(one.querySelector(".count-of").textContent)]));
const names = (page) => page.$$eval("#letters-list li", (all) => all.map((one) => one.querySelector("small").textContent));
const answers = (page) => page.$$eval("#letters-list .answer", (all) => all.map((one) => one.textContent));

async function lookAgain(page, queue, count) {
  await page.select("#queue", queue);
  await page.click("#letters-again");
  await until(`${count} are told`, async () => new RegExp(`^${count} message`).test(await text(page, "#letters-text")));
}

/** Opens a cause with the mouse. */
async function openCause(page, name) {
  const found = await page.$$("#letters-causes .cause");
  for (const button of found) {
    if (!(await button.evaluate((one) => one.textContent)).includes(name)) continue;
    await button.click();
    await visible(page, "#letters-open");
    return until("its letters are there", async () => (await names(page)).length > 0);
  }
  throw new Error(`no cause ${name}`);
}

const choose = (page, name) => page.click(`#letters-list input[data-name*="${name}"]`);

async function press(page, word) {
  const buttons = await page.$$("#letters-decisions button");
  for (const button of buttons) if ((await button.evaluate((one) => one.textContent)) === word) return button.click();
  throw new Error(`no button ${word}`);
}

await check(async () => {
  await start({ SMTP_PORT: String(smtp.port) });
  await publish(...["A-1", "A-2", "A-3", "A-4"].map(refused), confirmed("B-1", { movie_title: null }), confirmed("B-2", { movie_title: null }));
  await publish(...["C-1", "C-2", "C-3"].map((name) => confirmed(name, { user_email: `cut.${name}@example.com`.toLowerCase() })));
  await publishAnything("notification.booking_events", ...["no.such.type", "another.type"].map((event_type) => ({ ...confirmed("D-1"), event_type })));
  await untilWaiting("dead", 6);
  await untilWaiting("parked", 3);
  await untilWaiting("poison", 2);

  // By cause, with the keyboard alone.
  const page = await open("en-US,en");
  await signIn(page);
  await until("the causes are there", async () => (await causes(page)).length === 2);
  assert.deepEqual(await causes(page), [["Refused by the mail server", 4], ["Data missing in the event", 2]]);
  assert.equal(await text(page, "#letters-text"), "6 messages wait.");
  await page.focus("#letters-causes li:first-child .cause");
  await page.keyboard.press("Enter");
  await until("it is open", async () => (await names(page)).length === 4);
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-expanded")), "true");
  assert.ok((await text(page, "#letters-list")).includes(evil), "what a server replies is text");
  assert.ok(await page.$$eval("#letters-decisions button", (all) => all.every((button) => button.disabled)), "nothing is chosen");
  await page.keyboard.press("Tab");
  assert.equal(await focused(page), "letters-all");
  await shoot(page, "letters");

  // The set is frozen as shown: what comes meanwhile is not in it.
  await page.keyboard.press("Space");
  assert.equal(await text(page, "#letters-chosen"), "4 selected");
  await publish(refused("A-5"));
  await untilWaiting("dead", 7);
  await page.click("#letters-list li:nth-child(1) input");
  await page.click("#letters-list li:nth-child(2) input");
  await page.focus("#letters-all");
  await page.keyboard.press("Tab");
  assert.equal(await focused(page), "Send again");
  for (const { recipient } of (await waiting("dead")).results) smtp.accept(recipient);
  await page.keyboard.press("Enter");
  await visible(page, "#act");
  assert.equal(await text(page, "#act-title"), "Send again (2)");
  await page.keyboard.press("Enter");
  assert.ok(await page.$eval("#act", (dialog) => dialog.open), "without a reason nothing is done");
  await giveReason(page, () => page.keyboard.press("Enter"));
  await until("each has its answer", async () => (await answers(page)).length === 2);
  assert.deepEqual(await answers(page), ["Done", "Done"]);
  assert.equal(await text(page, "#letters-done"), "2 of 2 done.");
  assert.equal(await focused(page), "letters-title", "the button that was pressed is disabled now");
  await untilWaiting("dead", 5);
  await lookAgain(page, "dead", 5);
  assert.equal((await causes(page))[0][1], 3);

  // Two operators have the same letters on their screens.
  const other = await open("en-US,en");
  await signIn(other);
  for (const one of [page, other]) {
    await until("the causes are there", async () => (await causes(one)).length === 2);
    if (!(await one.$eval("#letters-open", (open) => !open.hidden))) await openCause(one, "Refused");
    await until("all three are shown", async () => (await names(one)).length === 3);
  }
  const name = (await names(page))[0];
  await choose(page, name);
  await press(page, "Remove");
  await giveReason(page, () => page.click("#act-do"));
  await until("it is done", async () => (await answers(page)).length === 1);
  await choose(other, name);
  await press(other, "Send again");
  await giveReason(other, () => other.click("#act-do"));
  await until("it is told", async () => (await answers(other)).length === 1);
  assert.match((await answers(other))[0], /^Not there any moredrop by .* at /);
  assert.equal(await text(other, "#letters-done"), "0 of 1 done.");
  await shoot(other, "letters-answered");

  // One vanished while the dialog stood open; the others are done.
  const left = (await names(page)).slice(1);
  for (const one of left) await choose(page, one);
  await press(page, "Remove");
  await visible(page, "#act");
  const { results } = await waiting("dead");
  const vanished = results.find((one) => one.recipient === left[0]).id;
  assert.equal((await post("api/v1/dead-letters/dead/drop", { ids: [vanished], reason: "first" })).status, 200);
  await giveReason(page, () => page.click("#act-do"));
  await until("both are told", async () => (await answers(page)).length === 3);
  assert.equal(await text(page, "#letters-done"), "1 of 2 done.");
  await until("only the others are left", async () => (await causes(page)).some(([name, count]) => name === "Refused by the mail server" && count === 0));

  // RabbitMQ is down: nothing is done, and that is said.
  await lookAgain(page, "dead", 2);
  await openCause(page, "Data missing");
  await page.click("#letters-all");
  await rabbitmq.cut();
  await press(page, "Remove");
  await visible(page, "#act");
  await page.type("#act-reason", "not wanted");
  await page.keyboard.press("Enter");
  await until("that is told", async () => (await text(page, "#act-error")) !== "" || (await answers(page)).length > 0);
  assert.match(await text(page, "#act-error"), /^Not done: .*rabbitmq/i);
  await rabbitmq.restore();
  await until("it is back", async () => (await fetch(`${HOME}readyz`)).ok);
  await page.click("#act-back");

  // MongoDB is down: what was known stays, and says since when.
  await mongodb.cut();
  await page.click("#letters-again");
  await until("that is told", async () => /Below is what was known at/.test(await text(page, "#letters-error")));
  assert.equal((await names(page)).length, 2);
  assert.equal((await waiting("dead")).count, undefined);
  await mongodb.restore();
  await until("it is back", async () => (await waiting("dead")).count === 2);
  await lookAgain(page, "dead", 2);

  // The session ends.
  await openCause(page, "Data missing").catch(() => {});
  await until("its letters are there", async () => (await names(page)).length === 2);
  await page.click("#letters-all");
  await press(page, "Remove");
  await visible(page, "#act");
  await page.deleteCookie(...(await page.cookies()));
  await page.type("#act-reason", "not wanted");
  await page.keyboard.press("Enter");
  await visible(page, "#sign-in");
  assert.equal((await waiting("dead")).count, 2);
  assert.equal((await names(page)).length, 0);
  assert.ok(!(await page.$eval("#act", (dialog) => dialog.open)));
  await signIn(page);

  // Mail that may have been sent: what became of it.
  await lookAgain(page, "parked", 3);
  await openCause(page, "No reply");
  await choose(page, "cut.c-1@");
  await press(page, "It arrived");
  await giveReason(page, () => page.click("#act-do"));
  await until("it is done", async () => (await answers(page)).length === 1);
  await until("it counts as sent", async () => (await get("api/notificaciones/?reserva_id=C-1")).results[0].estado === "sent");
  await choose(page, "cut.c-2@");
  await press(page, "Send again");
  await visible(page, "#act");
  assert.match(await text(page, "#act-about"), /may have it twice/);
  await shoot(page, "letters-dialog");
  smtp.accept("cut.c-2@example.com");
  await giveReason(page, () => page.click("#act-do"));
  await until("it is sent", async () => (await get("api/notificaciones/?reserva_id=C-2")).results[0].estado === "sent");

  // What was not understood, by what is wrong with it.
  await page.select("#queue", "poison");
  await until("its causes are there", async () => (await causes(page)).some(([name]) => name === "unknown event type …"));
  await openCause(page, "unknown event type");
  assert.equal((await names(page)).length, 2);
  await page.click("#letters-all");
  await press(page, "Remove");
  await giveReason(page, () => page.click("#act-do"));
  await until("both are done", async () => (await answers(page)).length === 2);

  // In each language; support sees them, and can choose nothing.
  for (const language of ["es", "fr", "pt", "ar"]) {
    const translated = await open(language);
    await signIn(translated);
    await until("the causes are there", async () => (await causes(translated)).length === 1);
    await translated.click("#letters-causes .cause");
    await until("the letters are there", async () => (await names(translated)).length === 2);
    await translated.click("#letters-all");
    await shoot(translated, `letters-${language}`);
  }
  const support = await open("en");
  await signIn(support, SUPPORT);
  await until("the causes are there", async () => (await causes(support)).length === 1);
  await support.click("#letters-causes .cause");
  await until("the letters are there", async () => (await names(support)).length === 2);
  assert.equal((await support.$$("#letters-list input, #letters-decisions button:not([hidden] *)")).length, 0);
  const ids = (await waiting("dead")).results.map((one) => one.id);
  const status = await support.evaluate(async (ids) => (await fetch("/api/v1/dead-letters/dead/drop", {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ ids, reason: "by hand" }),
  })).status, ids);
  assert.equal(status, 403, "the API refuses support too");
  await untilWaiting("dead", 2);
  await stop();
  assert.deepEqual(faults, []);
});
