"""Plays a bad day as its operator lives it; see `bad`. Exits with 1 if any check fails.

Each trouble is met with usher's commands alone. How many were needed, how long they took and how much memory the
largest took is printed at the end.
"""

import argparse
import copy
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import datetime, timezone
from pathlib import Path

import events
import pymongo
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from day import USHER, Usher, check, free_port, publish, ready, say, under_way, until, wrong
from mail_server import Moods

LOGIN, PASSWORD = "usher", "the right one"
BECAUSE = ("--reason", "the bad day", "--yes")


class Operator(Usher):
    """Counts the commands, their time and their memory."""

    def __init__(self, folder: Path, smtp_port: int):
        super().__init__(folder, smtp_port)
        self.settings = folder / "usher.toml"
        self.env |= {"USHER_CONFIG": str(self.settings), "SMTP_USERNAME": LOGIN}
        self.told: list[tuple[str, float, int]] = []
        self.done: list[tuple[str, int, float]] = []

    def password(self, password: str) -> None:
        self.settings.write_text(f'smtp_password = "{password}"\n')

    def tell(self, *arguments: str) -> str:
        began = time.monotonic()
        process = subprocess.Popen([USHER, *arguments], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = process.communicate()
        # The largest child so far; a larger one than before is this one.
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        self.told.append((" ".join(arguments[:3]), time.monotonic() - began, memory))
        if process.returncode:
            sys.exit(f"usher {' '.join(arguments)}: {process.returncode}\n{out}{err}")
        return out + err

    def solved(self, trouble: str) -> None:
        count = len(self.told)
        took = sum(seconds for _, seconds, _ in self.told)
        self.done.append((trouble, count, took))
        self.told.clear()


def server(moods: Moods, port: int) -> Controller:
    def login(_server, _session, _envelope, _mechanism, data) -> AuthResult:
        is_right = data.login == LOGIN.encode() and data.password == PASSWORD.encode()
        # Otherwise it leaves the reply to us.
        return AuthResult(success=is_right, handled=False)

    options = {"authenticator": login, "auth_required": True, "auth_require_tls": False}
    return Controller(moods, hostname="127.0.0.1", port=port, ready_timeout=30, **options)


def bodies(kind: str, count: int, change=lambda event: event) -> list[tuple[str, bytes]]:
    def one(n: int) -> bytes:
        now = datetime.now(timezone.utc).isoformat()
        event = events.confirmed(kind, n) | {"event_id": f"{kind}-{n}", "occurred_at": now}
        return json.dumps(change(event)).encode()

    return [(events.BOOKINGS, one(n)) for n in range(count)]


def accepted(moods: Moods, kind: str) -> int:
    return sum(count for to, count in moods.accepted.items() if to.startswith(f"{kind}-"))


def refused_login(usher: Operator, moods: Moods, daemon: subprocess.Popen) -> None:
    publish(bodies("held", 100))
    status = ""

    def names_it() -> bool:
        nonlocal status
        status = usher.tell("status")
        return "535" in status and "deliveries held" in status

    until("usher status names the login", names_it)
    usher.told.clear()
    status = usher.tell("status")
    check("mail waits: smtp is down" in status and "535" in status, "one command says that the login is refused")
    found = usher.tell("audit", "find", "--booking", "held-7")
    check("waiting" in found and "535" in found, "a booking's mail is found while it waits")
    usher.password(PASSWORD)
    daemon.send_signal(signal.SIGHUP)
    until("the held mail goes out", lambda: accepted(moods, "held") == 100)
    check("smtp is down" not in usher.tell("status"), "the login is corrected without a restart")
    usher.solved("the login is refused")


def missing_variable(usher: Operator, moods: Moods) -> None:
    def misspelt(event: dict) -> dict:
        event["film"] = event.pop("movie_title")
        return event

    publish(bodies("misspelt", 50, misspelt))
    until("they are dead", lambda: "50" in usher.tell("dead-letters", "list", "--group-by", "error"))
    usher.told.clear()
    check("missing_variable" in usher.tell("dead-letters", "list", "--group-by", "error"), "50 have one reason")
    shown = usher.tell("dead-letters", "replay", "--error", "missing_variable", "--rename", "film=movie_title", "--reason", "x")
    check(shown.count("movie_title: nothing") == 50, "the correction of each is shown first")
    usher.tell("dead-letters", "replay", "--error", "missing_variable", "--rename", "film=movie_title", *BECAUSE)
    until("they go out", lambda: accepted(moods, "misspelt") == 50)
    usher.solved("50 events without a variable")


def poison(usher: Operator) -> None:
    publish(bodies("typo", 300, lambda event: event | {"event_type": "bookng.confirmed"}))
    until("they are poison", lambda: " 300 " in usher.tell("poison", "list", "--group-by", "error"))
    usher.told.clear()
    groups = usher.tell("poison", "list", "--group-by", "error")
    check("300 in 1 group" in groups, "300 poison messages have one reason")
    check("100 of 300" in usher.tell("poison", "list"), "a list that is cut says so")
    usher.tell("poison", "drop", "--error", "rejected", *BECAUSE)
    check("nothing in usher.poison" in usher.tell("poison", "list"), "they are dropped at once")
    usher.solved("300 poison messages")


def deploy(usher: Operator, moods: Moods, daemons: list[subprocess.Popen], port: int) -> None:
    publish(bodies("deploy", 1000))
    daemons[0].send_signal(signal.SIGTERM)
    new = usher.start(port)
    check(daemons[0].wait(timeout=60) == 0, "the old instance drains and ends with 0")
    daemons[0] = new
    until("all goes out", lambda: accepted(moods, "deploy") == 1000)
    twice = [to for to, count in moods.accepted.items() if count > 1]
    check(not twice and under_way() == 0, f"a deploy under load loses nothing and sends nothing twice {twice[:3] or ''}")
    check("nothing needs attention" in usher.tell("status"), "usher status says that all is well")
    usher.solved("a deploy under load")


def customer(usher: Operator, moods: Moods) -> None:
    publish(bodies("refused", 1) + bodies("glad", 1))
    until("both are recorded", lambda: "failed" in usher.tell("audit", "find", "--recipient", "refused-0@example.com"))
    until("the other is sent", lambda: accepted(moods, "glad") == 1)
    usher.told.clear()
    found = usher.tell("audit", "find", "--recipient", "refused-0@example.com")
    check("failed" in found and "no such user" in found, "why a customer has no mail is one command")
    sent = json.loads(usher.tell("audit", "find", "--recipient", "glad-0@example.com", "--json").splitlines()[0])
    usher.tell("audit", "resend", sent["delivery_id"], *BECAUSE)
    until("it is sent again", lambda: accepted(moods, "glad") == 2)
    usher.solved("a customer without mail, and one who deleted it")


def many_dead_letters(usher: Operator, records, count: int) -> None:
    publish(bodies("refused", 2)[1:])
    until("there is one", lambda: records.find_one({"event.id": "refused-1", "status": "failed"}) is not None)
    model = records.find_one({"event.id": "refused-1", "status": "failed"})

    def copies(beginning: int) -> list[dict]:
        made = []
        for n in range(beginning, min(beginning + 5000, count)):
            one = copy.deepcopy(model)
            one["delivery_id"] = f"{n:032x}"
            one["_id"] = f"{n:032x}/1/failed"
            one["event"]["id"] = f"many-{n}"
            made.append(one)
        return made

    for beginning in range(0, count, 5000):
        records.insert_many(copies(beginning))
    usher.told.clear()
    for more in ([], ["--group-by", "error"], ["--since", "1h", "--limit", "10"]):
        out = usher.tell("dead-letters", "list", *more)
        check(str(count) in out or str(count + 2) in out, f"dead-letters list {' '.join(more)}: {out.splitlines()[-1]}")
        name, took, memory = usher.told[-1]
        say(f"       {took:.1f} s, {memory // 1024} MiB at most")
    usher.solved(f"{count} dead letters in the list")


def main() -> None:
    # Of logins without TLS, which stay on this machine.
    warnings.simplefilter("ignore")
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--dead-letters", type=int, default=100_000)
    count = arguments.parse_args().dead_letters
    records = pymongo.MongoClient(os.environ["TEST_MONGODB_URI"])["day"].deliveries
    with tempfile.TemporaryDirectory(prefix="usher-bad-day-") as name:
        smtp_port, *ports = (free_port() for _ in range(4))
        usher, moods = Operator(Path(name), smtp_port), Moods()
        usher.password("a wrong one")
        mail = server(moods, smtp_port)
        mail.start()
        daemons = [usher.start(port) for port in ports[:2]]
        until("both instances answer", lambda: all(map(ready, ports[:2])))
        # One daemon is enough to see a login refused, and to be told.
        daemons[1].send_signal(signal.SIGTERM)
        daemons[1].wait(timeout=60)
        refused_login(usher, moods, daemons[0])
        daemons[1] = usher.start(ports[1])
        missing_variable(usher, moods)
        poison(usher)
        deploy(usher, moods, daemons, ports[2])
        customer(usher, moods)
        many_dead_letters(usher, records, count)
        for daemon in daemons:
            daemon.terminate()
            daemon.wait(timeout=60)
        mail.stop()
        say("\ncommands  seconds  trouble")
        for trouble, commands, took in usher.done:
            say(f"{commands:8}  {took:7.1f}  {trouble}")
    say(f"{len(wrong)} wrong" if wrong else "all as it has to be")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
