"""Plays a day of operation; see `run`. Exits with 1 if any check fails."""

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import events
import pika
import pymongo
from mail_server import Moods, controller
from prometheus import OPENER, ROOT, Prometheus, dashboard_queries

USHER = ROOT / "target/debug/usher"
DEADLINE = 180.0
# Alerts that this day must raise, firing or pending: some wait for an hour.
RAISED = {"UsherDown", "UsherFailing", "UsherParked", "UsherPoison", "UsherDeadLetters"}
wrong: list[str] = []


def say(text: str) -> None:
    print(text, flush=True)


def check(right: bool, text: str) -> None:
    say(f"{'ok   ' if right else 'WRONG'} {text}")
    if not right:
        wrong.append(text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Usher:
    """Its settings, its instances and its commands."""

    def __init__(self, folder: Path, smtp_port: int):
        self.folder = folder
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder)} | {
            "RABBITMQ_URL": os.environ["TEST_AMQP_URL"],
            "REDIS_URL": os.environ["TEST_REDIS_URL"],
            "MONGODB_URI": os.environ["TEST_MONGODB_URI"].rstrip("/") + "/day",
            "SMTP_SERVER": "127.0.0.1",
            "SMTP_PORT": str(smtp_port),
            "SMTP_TLS": "none",
            "FROM_EMAIL": "noreply@cine.test",
            "RETRY_SCHEDULE": "1s,2s",
            "INSTANCE_TTL": "3s",
            "INSTANCE_RENEWAL": "1s",
            "LOG_FORMAT": "json",
            "USHER_PEPPER": "day",
            "USHER_OPERATOR": "the operator of the day",
        }

    def start(self, port: int) -> subprocess.Popen:
        log = (self.folder / f"usher-{port}.log").open("wb")
        return subprocess.Popen([USHER, "run"], env=self.env | {"HTTP_LISTEN": f"127.0.0.1:{port}"}, stderr=log)

    def tell(self, *arguments: str) -> str:
        """A command's output."""
        command = [USHER, *arguments]
        return subprocess.run(command, env=self.env, stdout=subprocess.PIPE, text=True, check=True).stdout

    def ask(self, *arguments: str) -> list:
        """The output of a command with --json."""
        return [json.loads(line) for line in self.tell(*arguments, "--json", "--limit", "5000").splitlines()]


def manage(method: str, path: str) -> list | None:
    login, _, server = os.environ["TEST_AMQP_MANAGEMENT"].removeprefix("http://").rpartition("@")
    request = urllib.request.Request(f"http://{server}/api/{path}", method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    with OPENER.open(request, timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def lose_connections() -> int:
    found = [one["name"] for one in manage("GET", "connections") if "usher" in json.dumps(one["client_properties"])]
    for name in found:
        manage("DELETE", "connections/" + urllib.request.quote(name, safe=""))
    return len(found)


def under_way() -> int:
    """Messages in all queues except dead, poison and parked."""
    channel = pika.BlockingConnection(pika.URLParameters(os.environ["TEST_AMQP_URL"])).channel()
    aside = {"usher.dead", "usher.poison", "usher.parked"}
    names = [queue["name"] for queue in manage("GET", "queues") if queue["name"] not in aside]
    waiting = sum(channel.queue_declare(name, passive=True).method.message_count for name in names)
    channel.connection.close()
    return waiting


def publish(day: list[tuple[str, bytes]]) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["TEST_AMQP_URL"]))
    channel = connection.channel()
    channel.confirm_delivery()
    for queue in sorted({queue for queue, _ in day}):
        channel.queue_declare(queue, durable=True)
    for queue, body in day:
        # Confirmed by the broker, or an exception.
        properties = pika.BasicProperties(delivery_mode=2, timestamp=int(time.time()))
        channel.basic_publish("", queue, body, properties, mandatory=True)
    connection.close()


def until(what: str, condition) -> None:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > DEADLINE:
            sys.exit(f"not within {DEADLINE:.0f} s: {what}")
        time.sleep(0.5)


def ready(port: int) -> bool:
    try:
        with OPENER.open(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def in_flight(ports: list[int]) -> int:
    total = 0
    for port in ports:
        with OPENER.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("usher_messages_in_flight "))
    return total


def settled(ports: list[int], records) -> bool:
    """Waits until nothing is queued or in flight and everything due soon has been sent."""
    due = records.database.planned.count_documents({"event_type": "payment.success", "state": {"$nin": ["published", "void"]}})
    return under_way() == 0 and in_flight(ports) == 0 and due == 0


def live(usher: Usher, moods: Moods, smtp_port: int, ports: list[int], records) -> None:
    """Plays the day: a fifth of the events between two faults."""
    server = controller(moods, smtp_port)
    server.start()
    instances = [usher.start(port) for port in ports[:2]]
    until("both instances are ready", lambda: all(map(ready, ports[:2])))
    day = events.all_events()
    fifth = len(day) // 5 + 1
    for n in range(5):
        publish(day[n * fifth : (n + 1) * fifth])
        if n == 0:
            say("       the mail server goes away for 5 s")
            server.stop()
            time.sleep(5)
            server = controller(moods, smtp_port)
            server.start()
        elif n == 1:
            say(f"       the broker closes {lose_connections()} connections")
        elif n == 2:
            say("       kill -9 of one instance; another one starts")
            instances[0].kill()
            instances[0].wait()
            instances[0] = usher.start(ports[2])
        elif n == 3:
            say("       Redis answers nobody for 3 s")
            address = os.environ["TEST_REDIS_URL"].removeprefix("redis://").split("/")[0].split(":")
            with socket.create_connection((address[0], int(address[1]))) as redis:
                redis.sendall(b"CLIENT PAUSE 3000 ALL\r\n")
                redis.recv(64)
    until("everything is settled", lambda: settled(ports[1:], records))
    # Acknowledgements, and messages that the killed instance had not acknowledged.
    time.sleep(3)
    until("everything is settled", lambda: settled(ports[1:], records))


def judge(records, moods: Moods) -> Counter:
    """Compares the audit with what was published, and the mail server with the audit."""
    last: dict[str, dict] = {}
    for record in records.find({"status": {"$ne": "duplicate"}}).sort("at"):
        last[record["delivery_id"]] = record
    words: Counter = Counter()
    for record in last.values():
        kind = record["event"]["id"].rpartition("-")[0] if record["event"].get("id_source") else ""
        words[(kind, record["status"])] += 1
    expected = events.expected()
    # Mails that the killed instance was sending have an unknown outcome.
    torn = {kind: words[(kind, "unknown")] for kind, word in expected if word == "sent" and words[(kind, "unknown")]}
    for (kind, word), count in sorted(expected.items()):
        found = words[(kind, word)] + (torn.get(kind, 0) if word == "sent" else 0)
        check(found == count, f"{count:5} {kind or 'broken':11} {word}" + ("" if found == count else f", not {found}"))
    say(f"       of {sum(torn.values())} mails nobody can tell because of the kill: {torn}")
    check(sum(words.values()) == sum(expected.values()), f"{sum(words.values())} deliveries and refusals in all")
    duplicates = records.count_documents({"status": "duplicate"})
    check(duplicates == events.RETOLD, f"{duplicates} facts were told twice")
    twice = [to for to, count in moods.accepted.items() if count > 1]
    check(not twice, f"{sum(moods.accepted.values())} mails accepted, none twice {twice[:3] or ''}")
    return Counter(record["status"] for record in records.find({}, {"status": 1}))


def answer(usher: Usher, statuses: Counter) -> None:
    """Checks what usher's own commands report."""
    dead, poison, parked = (usher.ask(shelf, "list", "--since", "24h") for shelf in ("dead-letters", "poison", "parked"))
    check(len(dead) == 150, f"{len(dead)} dead letters are listed")
    check(len(poison) == 40, f"{len(poison)} poison messages are listed")
    check(len(parked) == statuses["unknown"], f"{len(parked)} parked mails are listed")
    planned = usher.ask("scheduled", "list")
    check(len(planned) > 0, f"{len(planned)} reminders are planned")
    check(not usher.ask("scheduled", "list", "--overdue"), "nothing is overdue")
    say(usher.tell("audit", "stats", "--since", "24h"))
    stats = json.loads(usher.tell("audit", "stats", "--since", "24h", "--json"))["stats"]
    why = {error["kind"]: error["count"] for error in stats["errors"]}
    expected = {"refused": 60, "retries_exhausted": 30, "missing_variable": 40, "invalid_recipient": 20, "rejected": 40}
    check(why == expected | {"unknown": statuses["unknown"]}, f"what failed, and why: {why}")
    found = usher.tell("audit", "find", "--booking", "booking-7", "--format", "json").splitlines()
    sent = [json.loads(line) for line in found]
    check([record["status"] for record in sent] == ["sent"], f"{len(sent)} mail was sent about one booking")
    shown = usher.tell("audit", "show", sent[0]["delivery_id"])
    check("Solaris" in shown and "booking-7" in shown, "and can be shown as it was")


def repair(usher: Usher, moods: Moods) -> None:
    """Replays dead letters, now that the mail server accepts everybody."""
    moods.lenient = True
    accepted = sum(moods.accepted.values())
    because = ("--since", "24h", "--reason", "the cause is gone", "--yes")
    for error in ("refused", "retries_exhausted"):
        usher.tell("dead-letters", "replay", "--error", error, *because)
    usher.tell("dead-letters", "replay", "--error", "missing_variable", "--set", "amount=25.5", *because)
    usher.tell("dead-letters", "drop", "--error", "invalid_recipient", *because)
    until("what was replayed is accepted", lambda: sum(moods.accepted.values()) >= accepted + 60 + 30 + 40)
    until("no dead letter is left", lambda: not usher.ask("dead-letters", "list", "--since", "24h"))
    twice = [to for to, count in moods.accepted.items() if count > 1]
    new = sum(moods.accepted.values()) - accepted
    check(new == 130 and not twice, f"{new} dead letters were replayed and accepted, 20 dropped, none went out twice")


def watch(prometheus: Prometheus, start: float, statuses: Counter) -> None:
    """Checks what Prometheus saw: the dashboard's queries, the alerts, and the counters against the audit."""
    end = time.time()
    empty = set()
    for title, query in dashboard_queries():
        if not prometheus.over(query, start, end):
            empty.add(f"{title}: {query}")
    check(not empty, f"{len(dashboard_queries())} queries of the dashboard have an answer {sorted(empty) or ''}")
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    ill = [rule["name"] for rule in rules if rule["health"] != "ok"]
    check(bool(rules) and not ill, f"{len(rules)} alerts are evaluated {ill or ''}")
    raised: dict[str, set] = {}
    for series in prometheus.over("ALERTS", start, end):
        raised.setdefault(series["metric"]["alertname"], set()).add(series["metric"]["alertstate"])
    check(RAISED <= raised.keys(), f"raised: {', '.join(f'{name} ({min(states)})' for name, states in sorted(raised.items()))}")
    check("firing" in raised.get("UsherPoison", ()), "UsherPoison fires")
    for status in ("failed", "rejected", "duplicate", "sent"):
        # Counted by each instance; the killed one's last counts are missing.
        seen = prometheus.value(f'sum(max_over_time(usher_deliveries_recorded_total{{status="{status}"}}[1h]))')
        kept = statuses[status]
        # A rejection that was not acknowledged is counted twice and recorded once.
        most = 1.5 * kept if status == "rejected" else 1.02 * kept
        check(0.9 * kept <= seen <= most, f"{seen:.0f} of {kept} records counted as {status}")
    for queue, count in (("usher.dead", 150), ("usher.parked", statuses["unknown"])):
        seen = prometheus.value(f'max(usher_queue_messages{{queue="{queue}"}})')
        check(seen == count, f"{seen:.0f} messages in {queue}")
    # A rejected message has no delivery, so the ledger does not know it when an acknowledgement is lost.
    seen = prometheus.value('max(usher_queue_messages{queue="usher.poison"})')
    check(40 <= seen < 60, f"{seen:.0f} messages in usher.poison, copies among them")
    p95 = prometheus.value('histogram_quantile(0.95, sum by (le) (usher_delivery_latency_seconds_bucket{priority="high"}))')
    say(f"       published to sent, p95 of the day: {p95:.1f} s")


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--keep", type=float, default=0)
    keep = arguments.parse_args().keep
    records = pymongo.MongoClient(os.environ["TEST_MONGODB_URI"])["day"].deliveries
    with tempfile.TemporaryDirectory(prefix="usher-day-") as name:
        folder = Path(name)
        smtp_port, *ports, prometheus_port = (free_port() for _ in range(5))
        usher, moods = Usher(folder, smtp_port), Moods()
        prometheus = Prometheus(folder, prometheus_port, [f"127.0.0.1:{port}" for port in ports])
        start = time.time()
        say(f"       {events.EVENTS} events; Prometheus is at {prometheus.url}")
        live(usher, moods, smtp_port, ports, records)
        say(f"       settled after {time.time() - start:.0f} s")
        statuses = judge(records, moods)
        answer(usher, statuses)
        # Until alerts with `for: 1m` can fire.
        until("UsherPoison fires", lambda: prometheus.value('ALERTS{alertname="UsherPoison",alertstate="firing"}') == 1)
        time.sleep(5)  # so that the last step of each query has data
        watch(prometheus, start, statuses)
        repair(usher, moods)
        time.sleep(keep)
        # The rest ends with the services.
    say(f"{len(wrong)} wrong" if wrong else "all as it has to be")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
