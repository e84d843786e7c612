// Publishes one event so that it is not lost and not sent twice.
//
//     npm install
//     node publish.js notification.booking_events <event.json
//
// The broker is RABBITMQ_URL, else amqp://localhost:5672/%2F. Prints the event's id once the broker has confirmed it.
// Exits with 1 if it was not confirmed.
"use strict";

const { randomUUID } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { setTimeout: sleep } = require("node:timers/promises");
const amqplib = require("amqplib");

const TRIES = 5;

class NoQueue extends Error {}

async function publish(url, queue, body, options) {
  const connection = await amqplib.connect(url);
  // Awaited calls throw the error. Without this listener it would also end the process.
  connection.on("error", () => {});
  try {
    const channel = await connection.createConfirmChannel();
    channel.on("error", () => {});
    let returned = false;
    channel.on("return", () => { returned = true; });
    channel.publish("", queue, body, options);
    // Waits until the broker has it on disk. A returned message arrives before the confirm.
    await channel.waitForConfirms();
    if (returned) throw new NoQueue(`there is no queue ${queue}`);
  } finally {
    await connection.close().catch(() => {});
  }
}

async function main() {
  const queue = process.argv[2];
  const body = readFileSync(0);
  const event = JSON.parse(body);
  // One id for all tries: if a confirm was lost, the second copy is the same event and gives no second mail.
  const messageId = event.event_id ?? randomUUID();
  const options = {
    contentType: "application/json",
    persistent: true,
    // A missing queue is an error, not a loss.
    mandatory: true,
    messageId,
    timestamp: Math.floor(Date.now() / 1000),
    type: event.event_type,
  };
  for (let attempt = 1; attempt <= TRIES; attempt += 1) {
    try {
      await publish(process.env.RABBITMQ_URL ?? "amqp://localhost:5672/%2F", queue, body, options);
      console.log(messageId);
      return 0;
    } catch (error) {
      if (error instanceof NoQueue) {
        console.error(error.message);
        return 1;
      }
      console.error(`try ${attempt} of ${TRIES}: ${error}`);
      if (attempt < TRIES) await sleep(2 ** attempt * 1000);
    }
  }
  return 1;
}

main().then((code) => { process.exitCode = code; });
