// Consumes usher's status events, each once, and tells when some are missing.
//
//     npm install
//     node consume_status.js my-service.status seen.jsonl
//
// The broker is RABBITMQ_URL, else amqp://localhost:5672/%2F. Prints the type, the event's id and the subject of each status
// event; numbers that are missing go to standard error. Needs STATUS_EVENTS=on in usher.
"use strict";

const { appendFileSync, existsSync, readFileSync } = require("node:fs");
const amqplib = require("amqplib");

const EXCHANGE = "usher.status";

// What was seen before. A service would keep it in its database, in one transaction with what it does for the event.
const seen = new Set();
const last = new Map();

function remember({ id, instance, number }) {
  seen.add(id);
  last.set(instance, Math.max(number, last.get(instance) ?? 0));
}

function handle(event, path) {
  const { id, instance } = event;
  const number = Number(event.sequence);
  const before = last.get(instance);
  // Events from before the queue was bound never came.
  if (before !== undefined && number > before + 1) {
    // Perhaps they are late. If they don't come within minutes, ask: usher audit find --since 1h
    console.error(`${instance}: not seen yet: ${before + 1} to ${number - 1}`);
  }
  if (!seen.has(id)) console.log(event.type, event.data.event.id, event.subject ?? "-");
  appendFileSync(path, `${JSON.stringify({ id, instance, number })}\n`);
  remember({ id, instance, number });
}

async function main() {
  const [queue, path] = process.argv.slice(2);
  if (existsSync(path)) {
    readFileSync(path, "utf8").split("\n").filter(Boolean).forEach((line) => remember(JSON.parse(line)));
  }
  const connection = await amqplib.connect(process.env.RABBITMQ_URL ?? "amqp://localhost:5672/%2F");
  const channel = await connection.createChannel();
  await channel.assertQueue(queue, { durable: true, arguments: { "x-queue-type": "quorum" } });
  // Everything: numbers have no gaps only for those who get all events.
  await channel.bindQueue(queue, EXCHANGE, "#");
  await channel.prefetch(100);
  await channel.consume(queue, (message) => {
    handle(JSON.parse(message.content), path);
    channel.ack(message);
  });
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
