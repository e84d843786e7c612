"""Publishes one event so that it is not lost and not sent twice.

    pip install pika
    python publish.py notification.booking_events <event.json

The broker is RABBITMQ_URL, else amqp://localhost:5672/%2F. Prints the event's id once the broker has confirmed it.
Exits with 1 if it was not confirmed.
"""

import json
import os
import sys
import time
import uuid

import pika
from pika.exceptions import AMQPError, NackError, UnroutableError

TRIES = 5


def publish(url: str, queue: str, body: bytes, properties: pika.BasicProperties) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        # From now on basic_publish waits for the broker's confirm.
        channel.confirm_delivery()
        # mandatory: a missing queue is an error, not a loss.
        channel.basic_publish(exchange="", routing_key=queue, body=body, properties=properties, mandatory=True)
    finally:
        if connection.is_open:
            connection.close()


def main() -> int:
    queue, body = sys.argv[1], sys.stdin.buffer.read()
    event = json.loads(body)
    # One id for all tries: if a confirm was lost, the second copy is the same event and gives no second mail.
    event_id = event.get("event_id") or str(uuid.uuid4())
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=pika.DeliveryMode.Persistent,
        message_id=event_id,
        timestamp=int(time.time()),
        type=event["event_type"],
    )
    for attempt in range(1, TRIES + 1):
        try:
            publish(os.environ.get("RABBITMQ_URL", "amqp://localhost:5672/%2F"), queue, body, properties)
        except UnroutableError:
            print(f"there is no queue {queue}", file=sys.stderr)
            return 1
        except (NackError, AMQPError, OSError) as error:
            print(f"try {attempt} of {TRIES}: {error!r}", file=sys.stderr)
            if attempt < TRIES:
                time.sleep(2**attempt)
        else:
            print(event_id)
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
