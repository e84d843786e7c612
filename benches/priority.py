"""See benches/priority."""

import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pika
from benchkit import services
from benchkit.events import BOOKINGS, Event, make_event
from benchkit.measure import Bench
from benchkit.processes import Child, free_port
from benchkit.publisher import publish

REQUESTS = "notification.request_events"
LOW = "usher.low"
# One high event every 10 ms for 10 s.
HIGH, PAUSE = 1000, 0.01
USHER = [str(Path("target/release/usher").resolve()), "run"]


def low_event(index: int) -> Event:
    body = {
        "event_type": "notification.requested",
        "event_id": f"low-{index}",
        "to": f"low{index}@example.test",
        "subject": "News",
        "body": "Words",
        "priority": "low",
    }
    return Event(REQUESTS, json.dumps(body).encode(), None)


def high_event(index: int) -> Event:
    event = make_event(2 * index)
    body = json.loads(event.body) | {"event_id": f"high-{index}"}
    return Event(BOOKINGS, json.dumps(body).encode(), None)


def start(stack: ExitStack, directory: Path, bench: Bench, mongo: int, smtp: int) -> Child:
    environment = os.environ | {
        "RABBITMQ_URL": bench.rabbitmq.url,
        "REDIS_URL": bench.redis.url,
        "MONGODB_URI": f"mongodb://127.0.0.1:{mongo}/notifications",
        "SMTP_SERVER": "127.0.0.1",
        "SMTP_PORT": str(smtp),
        "SMTP_CONNECTIONS": "32",
        "SMTP_TLS": "none",
        "FROM_EMAIL": "tickets@example.test",
        "HTTP_LISTEN": f"127.0.0.1:{free_port()}",
        "REMINDER_BEFORE": "",
        "DRAIN_TIMEOUT": "1s",
        "LOG_FORMAT": "json",
    }
    usher = Child("usher", USHER, directory / "usher.log", env=environment)
    stack.callback(usher.stop)
    return usher


def main() -> None:
    waiting = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    with Bench() as bench, ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mongo = services.start_mongo_sink(stack, directory, 0, "event.id")
        smtp = services.start_smtp_sink(stack, directory)
        bench.rabbitmq.reset()
        connection = pika.BlockingConnection(pika.URLParameters(bench.rabbitmq.url + "?heartbeat=0"))
        channel = connection.channel()

        def depth(queue: str) -> int:
            return channel.queue_declare(queue, passive=True).method.message_count

        channel.queue_declare(REQUESTS, durable=True)
        publish(bench.rabbitmq.url, (low_event(index) for index in range(waiting)))
        # No mail can go out, so all of it waits in the low queue.
        usher = start(stack, directory, bench, mongo.port, free_port())
        # The process holds a good part of it until it ends.
        while depth(REQUESTS) > 0:
            time.sleep(0.1)
        usher.stop()

        usher = start(stack, directory, bench, mongo.port, smtp.port)
        while smtp.stats()["messages"] == 0:
            time.sleep(0.01)
        before = depth(LOW)
        published = {}
        for index in range(HIGH):
            event = high_event(index)
            published[f"high-{index}"] = time.time()
            channel.basic_publish("", event.queue, event.body)
            connection.sleep(PAUSE)
        after = depth(LOW)
        taken: dict[str, float] = {}
        while len(taken) < HIGH:
            time.sleep(0.5)
            for line in usher.log.read_text().splitlines():
                entry = json.loads(line)
                if entry.get("status") == "sent" and entry["event.id"] in published:
                    at = datetime.fromisoformat(entry["timestamp"]).timestamp()
                    taken[entry["event.id"]] = at - published[entry["event.id"]]
        values = sorted(taken.values())
        figures = " ".join(f"p{share} {values[len(values) * share // 100] * 1000:.0f} ms" for share in (50, 90, 99))
        print(f"{HIGH} high events, {before} low ones waiting at their begin and {after} at their end:")
        print(f"{figures} max {values[-1] * 1000:.0f} ms")


main()
