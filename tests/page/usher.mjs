// A real usher on the services of tests/run, and events for it.
import { spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { inFrontOf } from "./services.mjs";

export const TOKEN = "a-token-of-20-letters";
export const SUPPORT = "the-token-of-support";
const BINARY = path.resolve(process.env.USHER ?? "target/debug/usher");

const free = await new Promise((done) => {
  const probe = net.createServer().listen(0, "127.0.0.1", () => {
    const { port } = probe.address();
    probe.close(() => done(port));
  });
});
export const HOME = `http://127.0.0.1:${free}/`;

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "usher-page-"));
process.on("exit", () => fs.rmSync(folder, { recursive: true, force: true }));
const { TEST_AMQP_URL, TEST_REDIS_URL, TEST_MONGODB_URI, TEST_SMTP_PLAIN_PORT, TEST_PYTHON } = process.env;
if (!TEST_MONGODB_URI) throw new Error("to be run by tests/page/run, which starts the services");
const database = new URL(TEST_MONGODB_URI);
database.pathname = `/usher_page_${process.pid}`;
// By this port alone, so that it can be cut off.
database.searchParams.set("directConnection", "true");
export const mongodb = await inFrontOf(database.href);
export const rabbitmq = await inFrontOf(TEST_AMQP_URL);
const settings = {
  PATH: process.env.PATH,
  RABBITMQ_URL: rabbitmq.url,
  REDIS_URL: TEST_REDIS_URL,
  MONGODB_URI: mongodb.url,
  SMTP_SERVER: "127.0.0.1",
  SMTP_PORT: TEST_SMTP_PLAIN_PORT,
  SMTP_TLS: "none",
  FROM_EMAIL: "noreply@cine.test",
  USHER_PEPPER: `of-check-${process.pid}`,
  HTTP_LISTEN: `127.0.0.1:${free}`,
  API_TOKENS: `${TOKEN},support:${SUPPORT}`,
  LOG_FORMAT: "json",
  REMINDER_BEFORE: "",
};

let daemon;

/** The end of its log. */
export const log = () => fs.readFileSync(path.join(folder, "log"), "utf8").slice(-3000);

/** Starts it, with other settings if wanted, and waits until it is ready. */
export async function start(others = {}) {
  const log = fs.openSync(path.join(folder, "log"), "a");
  daemon = spawn(BINARY, ["run"], { env: { ...settings, ...others }, cwd: folder, stdio: ["ignore", "ignore", log] });
  await until("usher is ready", async () => (await fetch(`${HOME}readyz`).catch(() => ({}))).ok);
}

/** Ends it in good order. */
export async function stop() {
  const ended = new Promise((done) => daemon.once("exit", done));
  daemon.kill("SIGTERM");
  await ended;
}

process.on("exit", () => daemon?.kill("SIGKILL"));

/** Publishes events, confirmed. */
export const publish = (...events) => publishTo([], events);
/** The same to a queue, whatever they are. */
export const publishAnything = (queue, ...events) => publishTo(["--queue", queue], events);

function publishTo(queue, events) {
  const file = path.join(folder, "events.json");
  fs.writeFileSync(file, JSON.stringify(events));
  return run(BINARY, ["publish", ...queue, file]);
}

/** Copies the records to earlier days. */
export const makeHistory = (days) => run(TEST_PYTHON, [path.resolve(import.meta.dirname, "history.py"), String(days)]);

/** Without blocking: the services stand in front of the real ones in this process. */
async function run(command, args) {
  const child = spawn(command, args, { env: settings, cwd: folder, stdio: ["ignore", "ignore", "pipe"] });
  let stderr = "";
  child.stderr.on("data", (bytes) => (stderr += bytes));
  const status = await new Promise((done) => child.once("close", done));
  if (status !== 0) throw new Error(`${command} ${args}: ${stderr}`);
}

/** Looks again and again until there is something. */
export async function until(what, condition) {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`not within 60 s: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

let number = 0;
const id = () => `page-${++number}`;

export const rescheduled = (booking, name, more = {}) => ({
  event_id: id(), event_type: "booking.rescheduled", user_email: "grace@example.com", booking_id: booking,
  customer_name: name, previous_date: "2026-12-15T19:30:00-05:00", new_date: "2026-12-20T20:00:00-05:00",
  services: ["3 tickets"], total_amount: "45", currency: "USD", ...more,
});

export const confirmed = (booking, more = {}) => ({
  event_id: id(), event_type: "booking.confirmed", user_email: "ana@example.com", booking_id: booking,
  movie_title: "Solaris", showtime: "2026-12-15T19:30:00-05:00", seats: ["A1", "A2"], total_amount: "25.50",
  currency: "USD", ...more,
});

export const paid = (booking) => ({
  event_id: id(), event_type: "payment.success", user_email: "ana@example.com", booking_id: booking,
  transaction_id: `TX-${booking}`, amount: 25.5, payment_method: "card", currency: "USD",
});
