"""Consumes usher's status events, each once, and tells when some are missing.

    pip install pika
    python consume_status.py my-service.status seen.db

The broker is RABBITMQ_URL, else amqp://localhost:5672/%2F. Prints the type, the event's id and the subject of each status
event; numbers that are missing go to standard error. Needs STATUS_EVENTS=on in usher.
"""

import json
import os
import sqlite3
import sys

import pika

EXCHANGE = "usher.status"


def missing_before(database: sqlite3.Connection, instance: str, number: int) -> list[int]:
    """Keeps the number. Returns those of the same instance that were passed over since the last one."""
    last = database.execute("SELECT max(number) FROM numbers WHERE instance = ?", [instance]).fetchone()[0]
    database.execute("INSERT OR IGNORE INTO numbers VALUES (?, ?)", [instance, number])
    # Events from before the queue was bound never came.
    return list(range(last + 1, number)) if last is not None else []


def main() -> None:
    queue, path = sys.argv[1:3]
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY)")
    database.execute("CREATE TABLE IF NOT EXISTS numbers (instance TEXT, number INTEGER, PRIMARY KEY (instance, number))")
    url = os.environ.get("RABBITMQ_URL", "amqp://localhost:5672/%2F")
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    # Everything: numbers have no gaps only for those who get all events.
    channel.queue_bind(queue, EXCHANGE, "#")
    channel.basic_qos(prefetch_count=100)
    for method, _, body in channel.consume(queue):
        event = json.loads(body)
        with database:  # one transaction: what is done for the event belongs in it
            is_new = database.execute("INSERT OR IGNORE INTO events VALUES (?)", [event["id"]]).rowcount == 1
            missing = missing_before(database, event["instance"], int(event["sequence"]))
        if is_new:
            print(event["type"], event["data"]["event"]["id"], event.get("subject", "-"), flush=True)
        if missing:
            # Perhaps they are late. If they don't come within minutes, ask: usher audit find --since 1h
            print(f"{event['instance']}: not seen yet: {missing}", file=sys.stderr, flush=True)
        channel.basic_ack(method.delivery_tag)


if __name__ == "__main__":
    main()
