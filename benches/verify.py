#!/usr/bin/env python3
"""Measures `usher audit verify`: makes a chain in MongoDB by docs/evidence.md, and verifies it.

    tests/run --shell target/test-venv/bin/python benches/verify.py target/release/usher 1000000

Prints how long MongoDB takes to give the ids alone, in the same order, and how long usher takes, with its CPU and its most memory.
"""
import base64
import datetime
import hashlib
import hmac
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import uuid

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pymongo import ASCENDING, MongoClient

sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests/evidence"))
from verify import OF_RECORDS, Date, canonical  # noqa: E402

BATCH = 500
LOG = "bench/2592000"
# Replaced in the canonical form of a record.
MARK = 0xABCDEF012345
usher, count = os.path.abspath(sys.argv[1]), int(sys.argv[2])
key = Ed25519PrivateKey.generate()
public = key.public_key()
key_id = hashlib.sha256(b"usher\n\x01" + public.public_bytes(Encoding.Raw, PublicFormat.Raw)).digest()[:4]
at = int(time.time()) * 1000
purge_at = at + 30 * 24 * 3600 * 1000


def time_of(milliseconds):
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)


def checkpoint(size, head, kind, root):
    purged = purge_at if size else 0
    text = (f"usher.audit/{LOG}\n{size}\n{root}\nhead {head.hex()}\npurge_at {time_of(purged).isoformat()[:19]}Z\n"
            f"at {time_of(at).isoformat()[:19]}Z\nkind {kind}\n")
    signature = base64.b64encode(key_id + key.sign(text.encode())).decode()
    return {"_id": f"{LOG}/{size}/{kind}", "log": LOG, "size": size, "kind": kind, "at": time_of(at), "after": [],
            "note": f"{text}\n\u2014 usher {signature}\n"}


def push(subtrees, size, leaf):
    node = hashlib.sha256(b"\0" + leaf).digest()
    while size & 1:
        node = hashlib.sha256(b"\1" + subtrees.pop() + node).digest()
        size >>= 1
    subtrees.append(node)


def root_of(subtrees):
    node = subtrees[-1]
    for left in subtrees[-2::-1]:
        node = hashlib.sha256(b"\1" + left + node).digest()
    return base64.b64encode(node).decode()


def record(number, when):
    identity = f"{number:032x}"
    return {
        "_id": f"{identity}/1/sent", "delivery_id": identity, "event": {"id": f"evt-{number:015}", "type": "booking.confirmed",
        "source": "web", "time": when}, "route": "booking-confirmed", "channel": "email", "recipient": "ana@example.com",
        "recipient_hash": "6a2b" * 8, "subject": "Your booking", "attempt": 1, "status": "sent", "final": True,
        "data": {"total": 25.0, "seats": ["A1", {"row": 2}], "count": 5, "title": "A film"},
        "correlation": {"booking_id": f"B-{number:015}"},
        "smtp": {"server": "mx", "command": ".", "code": 250, "reply": "2.0.0 Ok: queued as 4B1C2"},
        "message": {"time_zone": "UTC", "sha256": "ab" * 32, "content_sha256": "cd" * 32},
        "timings": {"queued_ms": 12, "claim_ms": 1.25, "render_ms": 0.5, "send_ms": 20.0}, "worker": "w",
        "at": when, "purge_at": purge_at_of(when),
    }


def purge_at_of(when):
    return Date(purge_at) if isinstance(when, Date) else time_of(purge_at)


def rest_of(document):
    rest, values = dict(document), {}
    for name, (path, _) in OF_RECORDS.items():
        holder = rest
        if len(path) == 2:
            holder = rest[path[0]] = dict(rest[path[0]]) if path[0] in rest else {}
        if path[-1] in holder:
            values[name] = holder.pop(path[-1])
        if len(path) == 2 and path[0] not in document:
            del rest[path[0]]
    return rest, values


# Everything but the number is the same in each, so it is put into canonical form once.
rest, values = rest_of(record(MARK, Date(at)))
template = canonical(rest)
inputs = {name: canonical(name) + canonical(value) for name, value in values.items()}
old = [f"{MARK:032x}".encode(), f"{MARK:015}".encode()]


def main():
    uri = os.environ["TEST_MONGODB_URI"]
    name = f"usher-bench-{uuid.uuid4().hex[:12]}"
    database = MongoClient(uri)[name]
    folder = pathlib.Path(tempfile.mkdtemp())
    public_key = folder / "checkpoint.pub"
    public_key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    database.deliveries.create_index([("chain.log", ASCENDING), ("chain.seq", ASCENDING)], sparse=True)
    head = hashlib.sha256(b"usher.audit/" + LOG.encode()).digest()
    stated = [checkpoint(0, head, "open", base64.b64encode(hashlib.sha256(b"").digest()).decode())]
    began, subtrees, prev_purge_at = time.monotonic(), [], 0
    for first in range(1, count + 1, BATCH):
        documents = []
        for number in range(first, min(first + BATCH, count + 1)):
            salts = os.urandom(16 * len(inputs))
            salts = {field: salts[16 * at:16 * at + 16] for at, field in enumerate(inputs)}
            commitments = {field: hmac.digest(salts[field], inputs[field], "sha256") for field in inputs}
            link = {"batch": first, "commitments": commitments, "log": LOG, "prev": head.hex(),
                    "prev_purge_at": Date(prev_purge_at), "seq": number, "v": 1, "record": None}
            body = template.replace(old[0], f"{number:032x}".encode()).replace(old[1], f"{number:015}".encode())
            hashed = canonical(link).replace(b"s6:recordn", b"s6:record" + body)
            after = hashlib.sha256(hashed).digest()
            del link["record"]
            chain = link | {"hash": after.hex(), "salts": salts, "prev_purge_at": time_of(prev_purge_at)}
            documents.append(record(number, time_of(at)) | {"chain": chain})
            push(subtrees, number - 1, after)
            head, prev_purge_at = after, purge_at
        database.deliveries.insert_many(documents, ordered=False)
        last = documents[-1]["chain"]["seq"]
        if last % 100_000 == 0 or last == count:
            stated.append(checkpoint(last, head, "interval", root_of(subtrees)))
            print(f"{last} made in {time.monotonic() - began:.0f} s", flush=True)
    stated.append(checkpoint(count, head, "close", root_of(subtrees)))
    database.checkpoints.insert_many(stated)
    # The server's own share.
    began = time.monotonic()
    chained = {"chain.log": LOG, "chain.seq": {"$gte": 1, "$lte": count}}
    read = sum(1 for _ in database.deliveries.find(chained, {"_id": 1}).sort("chain.seq", ASCENDING))
    print(f"{read} read by id alone in {time.monotonic() - began:.1f} s", flush=True)
    environment = {"PATH": os.environ["PATH"], "MONGODB_URI": f"{uri}/{name}", "USHER_PEPPER": "a pepper of at least sixteen", "USER": "bench"}
    began = time.monotonic()
    ended = subprocess.run([usher, "audit", "verify", "--json", "--public-key", public_key], env=environment, cwd=folder,
                           capture_output=True, text=True)
    took, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(ended.stdout, ended.stderr)
    print(f"{count} records: {took:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU, at most {used.ru_maxrss / 1024:.0f} MB")


main()
