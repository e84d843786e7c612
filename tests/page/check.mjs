// The page for support, as somebody uses it: with the keyboard, in both colour schemes, on a phone and on a desk.
// `tests/page/run` starts it. Ends with 1 if anything is not as it should be.
import assert from "node:assert/strict";
import { accessible, check, focused, get, giveReason, open, post, shoot, signIn, text, visible } from "./browser.mjs";
import { HOME, SUPPORT, confirmed, makeHistory, paid, publish, rescheduled, start, stop, until } from "./usher.mjs";

const sentAbout = async (booking) => (await get(`api/notificaciones/?reserva_id=${booking}`)).count;


await check(async () => {
  await start();
  // A month has gone before.
  await publish(confirmed("OLD-1"), paid("OLD-1"), confirmed("OLD-2", { movie_title: null }), confirmed("OLD-3", { user_email: "no address" }));
  await until("that is recorded", async () => (await Promise.all(["OLD-1", "OLD-2", "OLD-3"].map(sentAbout))).every((count) => count > 0));
  await makeHistory(30);

  // Signing in.
  const page = await open("en-US,en");
  await visible(page, "#sign-in");
  await shoot(page, "sign-in");
  await page.type("#token", "no-such-token");
  await page.keyboard.press("Enter");
  await until("the token is refused", async () => (await text(page, "#sign-in-error")) !== "");
  await page.$eval("#token", (input) => (input.value = ""));
  await signIn(page);
  assert.ok(await page.$eval("#sign-in", (form) => form.hidden));

  // A reschedule is told at once, and no name can do harm.
  const evil = `<img src="${HOME}x" onerror="alert(1)">`;
  await publish(rescheduled("BOOK-1", evil));
  await visible(page, ".toast");
  await until("it is unread", async () => (await page.$$("#moves li")).length === 1);
  assert.ok((await text(page, ".toast .text")).includes(evil));
  assert.ok((await text(page, "#moves .who")).includes(evil));
  assert.equal(await page.title(), "(1) usher · Support");

  // Marked as read with the keyboard; the focus stays where the work is.
  await publish(rescheduled("BOOK-2", "Grace O'Kafor", { reason: "The customer is ill", rescheduled_by: "Admin" }));
  await until("both are unread", async () => (await page.$$("#moves li")).length === 2);
  await page.focus("#moves li:first-child button");
  await page.keyboard.press("Enter");
  await until("one is left", async () => (await page.$$("#moves li")).length === 1);
  await until("the other has the focus", async () => (await focused(page)) === "Mark as read");
  await page.keyboard.press("Enter");
  await until("none is left", async () => (await page.$$("#moves li")).length === 0);
  await until("the focus is at the title", async () => (await focused(page)) === "moved-title");
  assert.equal(await page.title(), "usher · Support");

  // What happens while usher restarts is told afterwards, once.
  await stop();
  await visible(page, "#status[data-is=off], #status[data-is=wait]");
  await publish(
    confirmed("BOOK-3"), paid("BOOK-3"), confirmed("BOOK-4", { movie_title: null }), confirmed("BOOK-5", { user_email: "no address" }),
    confirmed("BOOK-6"), paid("BOOK-6"), rescheduled("BOOK-7", "Juan Pérez", { reason: "Cliente solicitó cambio", rescheduled_by: "Admin" }),
    rescheduled("BOOK-8", "Ana María Fernández-Villaverde y Ortiz de Zárate", { new_date: "next Friday at noon" }),
    rescheduled("BOOK-1042", "Wei Chen"),
  );
  await start();
  await visible(page, "#status[data-is=live]");
  const rows = async () => (await page.$$("#feed li")).length;
  await until("all is told", async () => (await rows()) >= 11);
  assert.equal(await rows(), 11);
  await page.select("#show", "problems");
  await until("only problems are shown", async () => (await rows()) === 2);
  await page.select("#show", "all");

  // Search with the keyboard.
  await page.type("#booking", "BOOK-3");
  await page.keyboard.press("Enter");
  await until("it is found", async () => (await page.$$("#found li")).length === 2);
  assert.equal(await text(page, "#found-text"), "2 messages about booking BOOK-3");

  // Sent once more, with the mouse; Escape changes nothing.
  await page.click("#found li .acts button");
  await visible(page, "#act");
  await accessible(page, "the dialog");
  await page.keyboard.press("Escape");
  await until("the focus is back", async () => (await focused(page)) === "Send again");
  await page.click("#found li .acts button");
  await giveReason(page, () => page.click("#act-do"));
  await until("it is sent again", async () => (await sentAbout("BOOK-3")) === 3);
  assert.equal(await text(page, "#found-text"), "It is sent again, as a new mail.");

  // Planned mail: no booking number does harm, and one is cancelled with the keyboard.
  const later = { deliver_at: new Date(Date.now() + 86_400_000).toISOString() };
  await publish(confirmed(`LATER-1 ${evil}`, later), confirmed("LATER-2", later), confirmed("LATER-3", later), confirmed("LATER-4", later));
  await until("they are planned", async () => (await get("api/v1/scheduled")).count === 4);
  const planned = async (booking) => {
    // A toast would be in the way of the mouse, which would hold it there.
    await page.$$eval(".toast button", (buttons) => buttons.forEach((button) => button.click()));
    await page.$eval("#planned-of", (input) => (input.value = ""));
    await page.type("#planned-of", booking);
    await page.keyboard.press("Enter");
    await until(`${booking} is found`, async () => (await text(page, "#planned-list")).includes(booking) && (await page.$$("#planned-list li")).length === 1);
  };
  await planned(`LATER-1 ${evil}`);
  await planned("LATER-2");
  await page.focus("#planned-list button:last-child");
  await page.keyboard.press("Enter");
  await visible(page, "#act");
  await page.keyboard.press("Enter");
  assert.ok(await page.$eval("#act", (dialog) => dialog.open), "without a reason nothing is done");
  await giveReason(page, () => page.keyboard.press("Enter"));
  await until("it is gone", async () => (await page.$$("#planned-list li")).length === 0);
  assert.equal(await text(page, "#planned-text"), "The mail is cancelled.");
  assert.equal(await focused(page), "planned-title");

  // Another operator was faster.
  await planned("LATER-3");
  const [{ id }] = (await get("api/v1/scheduled?booking=LATER-3")).results;
  await page.click("#planned-list button:first-child");
  await visible(page, "#act");
  assert.equal((await post(`api/v1/scheduled/${id}/cancel`, { reason: "first" })).status, 200);
  await page.type("#act-reason", "second");
  await page.keyboard.press("Enter");
  await until("that is told", async () => (await text(page, "#act-error")).includes("void already"));
  await shoot(page, "dialog");
  await page.click("#act-back");

  // Sent now, with the mouse.
  await planned("LATER-4");
  await page.click("#planned-list button:first-child");
  await giveReason(page, () => page.click("#act-do"));
  await until("it is sent", async () => (await sentAbout("LATER-4")) === 1);
  await page.$eval("#planned-of", (input) => (input.value = ""));
  await page.focus("#planned-of");
  await page.keyboard.press("Enter");
  await until("one is left", async () => (await text(page, "#planned-text")).startsWith("1 mail is planned"));

  // Charts.
  await page.select("#period", "30");
  await until("the days are drawn", async () => (await page.$$("#rate rect.good")).length === 30);
  assert.ok((await page.$$("#errors rect.bad")).length >= 2);
  await page.focus("#rate summary");
  await page.keyboard.press("Enter");
  assert.equal((await page.$$("#rate tbody tr")).length, 30);
  await accessible(page, "with a table");
  await page.keyboard.press("Enter");
  await page.select("#period", "7");
  await until("a week is drawn", async () => (await page.$$("#rate rect.good")).length === 7);
  await publish(rescheduled("BOOK-9", "Grace O'Kafor"));
  await until("one more is unread", async () => (await page.$$("#moves li")).length === 4);
  await shoot(page, "desk");

  // Out again; nothing stays on the screen.
  await page.click("#sign-out");
  await visible(page, "#sign-in");
  assert.equal((await page.$$("#moves li, #found li")).length, 0);
  await page.reload();
  await visible(page, "#sign-in");

  // In Spanish, where the browser is.
  const spanish = await open("es-MX,es,en");
  await signIn(spanish);
  await until("it is in Spanish", async () => (await text(spanish, "#moved-title")).startsWith("Reservas reprogramadas"));
  assert.equal(await spanish.$eval("html", (html) => html.lang), "es");
  assert.equal(await text(spanish, "#status-text"), "En vivo");
  await until("the list is there", async () => (await spanish.$$("#moves li")).length === 4);
  await shoot(spanish, "spanish");

  // From right to left.
  const arabic = await open("ar-EG,ar;q=0.9");
  await signIn(arabic);
  await until("it is in Arabic", async () => (await text(arabic, "#moved-title")).startsWith("الحجوزات"));
  assert.deepEqual(await arabic.$eval("html", (html) => [html.lang, html.dir]), ["ar", "rtl"]);
  await until("the list is there", async () => (await arabic.$$("#moves li")).length === 4);
  await shoot(arabic, "arabic");

  // Support sees, and has no buttons to act with.
  const support = await open("en-US,en");
  await signIn(support, SUPPORT);
  await until("planned mail is there", async () => (await support.$$("#planned-list li")).length === 1);
  await support.type("#booking", "BOOK-3");
  await support.keyboard.press("Enter");
  await until("it is found", async () => (await support.$$("#found li")).length === 3);
  assert.equal((await support.$$(".acts button")).length, 0);

  // What needs attention stands above everything else.
  assert.match(await text(support, "#alarms"), /^deliveries that failed for good wait for a decision: 4; usher dead-letters list --group-by error$/);
  await stop();
  await start({ SMTP_PORT: "1" });
  await support.reload();
  await until("that is told", async () => /smtp|mail is waiting/i.test(await text(support, "#alarms")));
  await shoot(support, "banner");
  await stop();
});
