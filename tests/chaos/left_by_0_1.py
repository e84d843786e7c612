"""Made left_by_0_1.json: what a killed usher 0.1 leaves in RabbitMQ, Redis and MongoDB.

    tests/run --shell target/test-venv/bin/python tests/chaos/left_by_0_1.py USHER OUTPUT

USHER is the binary of that version (commit c52adfa). Needs a Redis without other keys, such as that of tests/run."""

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import pika
from aiosmtpd.controller import Controller
from bson import json_util
from pymongo import MongoClient

NAME = "left-by-0-1"
BOOKINGS = "notification.booking_events"
QUEUES = [BOOKINGS, "usher.low", "usher.due.high", "usher.due.medium", "usher.due.low", "usher.delay.1h",
          "usher.dead", "usher.poison", "usher.parked"]


class Server:
    """Answers by the recipient's name."""

    def __init__(self):
        self.held = threading.Event()

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("later"):
            return "451 4.7.1 later"
        if address.startswith("dead"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server, session, envelope):
        to = envelope.rcpt_tos[0]
        if to.startswith("unknown"):
            server.transport.abort()
        if to.startswith("held"):
            self.held.set()
            await asyncio.sleep(60)
        return "250 2.0.0 queued"


def manage(method, path, body=None):
    url, login = os.environ["TEST_AMQP_MANAGEMENT"].replace("guest:guest@", ""), b"guest:guest"
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": "Basic " + base64.b64encode(login).decode(), "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/api/{path}", data, headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read() or b"null")


def booking(kind, **more):
    return {"event_id": f"{kind}-1", "event_type": "booking.confirmed", "user_email": f"{kind}@example.com",
            "booking_id": f"BOOK-{kind}", "movie_title": "Solaris", "showtime": "2099-12-15T19:30:00-05:00",
            "seats": ["A1", "A2"], "total_amount": "25.50", "currency": "USD", **more}


def redis(*words):
    """One command, whose answer is a text or a list of texts."""
    host, port = os.environ["TEST_REDIS_URL"].removeprefix("redis://").split("/")[0].split(":")
    with socket.create_connection((host, int(port))) as connection:
        lines = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        connection.sendall(f"*{len(words)}\r\n{lines}".encode())
        answer = connection.makefile("rb")

        def one():
            kind = answer.readline().decode().strip()
            match kind[0]:
                case "+" | ":":
                    return kind[1:]
                case "$":
                    return answer.read(int(kind[1:]) + 2)[:-2].decode()
                case "*":
                    return [one() for _ in range(int(kind[1:]))]
            raise RuntimeError(kind)

        return one()


def wait(what, is_so):
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def main():
    usher, output = sys.argv[1:]
    manage("PUT", f"vhosts/{NAME}")
    manage("PUT", f"permissions/{NAME}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    server = Server()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    smtp = Controller(server, hostname="127.0.0.1", port=port)
    smtp.start()
    database = MongoClient(os.environ["TEST_MONGODB_URI"])[NAME]
    channel = pika.BlockingConnection(pika.URLParameters(f"{os.environ['TEST_AMQP_URL']}/{NAME}")).channel()
    channel.queue_declare(BOOKINGS, durable=True)

    def publish(event):
        body = event if isinstance(event, str) else json.dumps(event)
        channel.basic_publish("", BOOKINGS, body)

    settings = {
        "RABBITMQ_URL": f"{os.environ['TEST_AMQP_URL']}/{NAME}", "REDIS_URL": os.environ["TEST_REDIS_URL"],
        "MONGODB_URI": f"{os.environ['TEST_MONGODB_URI']}/{NAME}", "USHER_PEPPER": NAME, "SMTP_SERVER": "127.0.0.1",
        "SMTP_PORT": str(port), "SMTP_TLS": "none", "FROM_EMAIL": "noreply@cine.test", "RETRY_SCHEDULE": "1h",
        "AUDIT_RETENTION": "24855d", "ADMIN_EMAILS": "", "LOG_FORMAT": "json", "HTTP_LISTEN": "127.0.0.1:0",
        "SMTP_DOT_TIMEOUT": "60s",
    }
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([usher, "run"], env=settings, cwd=folder)
        # Each sent booking also leaves a reminder, planned for the day before its showtime.
        for kind in ["sent", "later", "dead", "unknown", "invalid"]:
            publish(booking(kind))
        publish(booking("planned", deliver_at="2099-12-01T10:00:00Z"))
        publish(booking("stranger", event_type="booking.unheard_of"))
        publish("{ not JSON")
        wait("records", lambda: database.deliveries.count_documents({}) >= 6)
        publish(booking("held"))
        assert server.held.wait(60)
        process.kill()
        process.wait()
    publish(booking("waiting"))
    time.sleep(2)
    queues = {}
    for queue in QUEUES:
        how = {"count": 100, "ackmode": "ack_requeue_true", "encoding": "base64"}
        queues[queue] = [{"body": letter["payload"], "properties": letter["properties"]}
                         for letter in manage("POST", f"queues/{NAME}/{queue}/get", how)]
    keys = {}
    for key in redis("KEYS", "usher:*"):
        match redis("TYPE", key):
            case "string":
                keys[key] = redis("GET", key)
            case other:
                print("left out:", key, other)
    collections = {name: list(database[name].find()) for name in ["deliveries", "planned", "template_versions"]}
    used = {record.get("template", {}).get("version") for record in collections["deliveries"]}
    collections["template_versions"] = [one for one in collections["template_versions"] if one["_id"] in used]
    left = {"queues": queues, "redis": keys, "mongodb": json.loads(json_util.dumps(collections))}
    with open(output, "w") as file:
        json.dump(left, file, indent=1, sort_keys=True)
        file.write("\n")
    for name, documents in collections.items():
        print(name, len(documents))
    print({queue: len(letters) for queue, letters in queues.items()}, list(keys))
    smtp.stop()


main()
