#!/usr/bin/env python3
"""Verifies an export of usher's audit, by docs/evidence.md alone.

    verify.py --public-key FILE [--checkpoints FILE]… FOLDER

FOLDER has deliveries.ndjson, actions.ndjson, chain_voids.ndjson and checkpoints.ndjson, as mongoexport --jsonFormat=canonical writes them. Prints one JSON
object with the findings of each log; the exit code is 1 if one is a fault. It needs cryptography, and sorts in memory.
"""
import argparse
import base64
import collections
import datetime
import hashlib
import hmac
import json
import pathlib
import re
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

# Name: path, and what erasing leaves (None: nothing).
OF_RECORDS = {
    "data": (["data"], {}), "error_message": (["error", "message"], "(erased)"),
    "message_content_sha256": (["message", "content_sha256"], None), "message_sha256": (["message", "sha256"], None),
    "recipient": (["recipient"], ""), "smtp_reply": (["smtp", "reply"], "(erased)"), "subject": (["subject"], ""),
}
OF_ACTIONS = {"changes": (["changes"], None), "reason": (["reason"], "(erased)")}


class Date(int):
    """Milliseconds since 1970."""


def decoded(value):
    """A value of canonical Extended JSON."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (kind, inner), = value.items()
        if kind in ("$numberInt", "$numberLong"):
            return int(inner)
        if kind == "$numberDouble":
            return float(inner)
        if kind == "$date":
            return Date(inner["$numberLong"])
        if kind == "$binary":
            return base64.b64decode(inner["base64"])
    return {name: decoded(inner) for name, inner in value.items()}


def canonical(value):
    if value is None:
        return b"n"
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, Date):
        return b"m%d;" % value
    if isinstance(value, int):
        return b"i%d;" % value
    if isinstance(value, float):
        return b"d" + struct.pack(">d", value).hex().encode()
    if isinstance(value, str):
        return b"s%d:" % len(value.encode()) + value.encode()
    if isinstance(value, bytes):
        return b"b%d:" % len(value) + value
    if isinstance(value, list):
        return b"[" + b"".join(map(canonical, value)) + b"]"
    fields = sorted(value.items(), key=lambda field: field[0].encode())
    return b"{" + b"".join(canonical(name) + canonical(inner) for name, inner in fields) + b"}"


def is_intact(record):
    chain = record["chain"]
    committed = OF_ACTIONS if chain["log"] == "actions" else OF_RECORDS
    rest = {name: value for name, value in record.items() if name not in ("chain", "erased_at")}
    values = {}
    for name, (path, _) in committed.items():
        holder = rest
        if len(path) == 2:
            holder = rest[path[0]] = dict(rest[path[0]]) if path[0] in rest else {}
        if path[-1] in holder:
            values[name] = holder.pop(path[-1])
        if len(path) == 2 and path[0] not in record:
            del rest[path[0]]
    hashed = {name: chain[name] for name in ("batch", "commitments", "log", "prev", "prev_purge_at", "seq", "v")}
    if hashlib.sha256(canonical(hashed | {"record": rest})).hexdigest() != chain["hash"] or chain["v"] != 1:
        return False
    if not values.keys() <= chain["commitments"].keys():
        return False
    for name, commitment in chain["commitments"].items():
        salt = chain["salts"].get(name)
        if salt is None:
            if values.get(name) != committed[name][1] or "erased_at" not in record:
                return False
        elif name not in values:
            return False
        elif hmac.digest(salt, canonical(name) + canonical(values[name]), "sha256") != commitment:
            return False
    return True


def signed_text(note, keys):
    text, _, signatures = note.rpartition("\n\n")
    text += "\n"
    for line in signatures.splitlines():
        if not line.startswith("\u2014 usher "):
            continue
        signature = base64.b64decode(line.rpartition(" ")[2])
        for key in keys:
            raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
            if hashlib.sha256(b"usher\n\x01" + raw).digest()[:4] == signature[:4]:
                try:
                    key.verify(signature[4:], text.encode())
                    return text.splitlines()
                except InvalidSignature:
                    pass
    return None


def milliseconds(time):
    since_1970 = datetime.datetime.fromisoformat(time) - datetime.datetime.fromisoformat("1970-01-01T00:00:00Z")
    return since_1970 // datetime.timedelta(milliseconds=1)


def read_checkpoint(note, keys):
    lines = signed_text(note, keys)
    if lines is None or not lines[0].startswith("usher.audit/"):
        return None
    named = dict(line.split(" ", 1) for line in lines[3:7])
    after = [line.split(" ")[1:] for line in lines[7:]]
    return {
        "log": lines[0].removeprefix("usher.audit/"), "size": int(lines[1]), "head": named["head"], "kind": named["kind"],
        "purge_at": milliseconds(named["purge_at"]), "root": None if lines[2] == "-" else base64.b64decode(lines[2]),
        "after": [{"log": log, "size": int(size), "head": head, "kind": "named", "root": None,
                   "purge_at": milliseconds(purge_at)} for log, size, head, purge_at in after],
    }


def outside(lines):
    """The notes of a file. A line that was cut short says nothing, and may be followed by a note on the same line."""
    for part in re.split(rb"\n|(?=\{\"note\")", lines):
        part = part.strip()
        try:
            yield json.loads(part)["note"]
        except (KeyError, TypeError, ValueError):
            if not part.startswith(b'{"note"') and not b'{"note"'.startswith(part):
                yield ""


def read_void(note, keys):
    lines = signed_text(note, keys)
    if lines is None or not lines[0].startswith("usher.void/"):
        return None
    named = dict(line.split(" ", 1) for line in lines[3:])
    return {"log": lines[0].removeprefix("usher.void/"), "from": int(lines[1]), "to": int(lines[2]), "prev": named["prev"],
            "hash": named["hash"], "prev_purge_at": milliseconds(named["prev_purge_at"])}


def root_of(leaves):
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root_of(leaves[:split]) + root_of(leaves[split:])).digest()


def verify(log, records, voids, checkpoints, now):
    found = collections.defaultdict(set)
    checkpoints = sorted(checkpoints, key=lambda checkpoint: checkpoint["size"])
    closes = [checkpoint["size"] for checkpoint in checkpoints if checkpoint["kind"] == "close" and log != "actions"]
    stated = checkpoints[-1]["size"] if checkpoints else 0
    newest = max((record["chain"] for record in records), key=lambda chain: chain["seq"], default={"seq": 0, "batch": 0})
    settled_below = max(newest["batch"], newest["seq"] - 500, stated + 1)
    if not any(checkpoint["kind"] == "open" for checkpoint in checkpoints):
        found["unopened"].update(range(1, max(newest["seq"], 1) + 1))
    expected, head, leaves, was_intact = 1, hashlib.sha256(b"usher.audit/" + log.encode()).hexdigest(), [], True

    def alter(*numbers):
        nonlocal leaves
        found["altered"].update(numbers)
        leaves = None

    def compare(number):
        while checkpoints and checkpoints[0]["size"] <= number:
            checkpoint = checkpoints.pop(0)
            if checkpoint["size"] == number:
                is_other_root = None not in (leaves, checkpoint["root"]) and root_of(leaves) != checkpoint["root"]
                if checkpoint["head"] != head or is_other_root:
                    alter(number)

    def lack(to, purge_at, is_settled):
        nonlocal expected, leaves
        numbers = range(expected, to + 1)
        if purge_at <= now:
            found["purged"].update(numbers)
        else:
            found["missing"].update(number for number in numbers if is_settled or number < settled_below)
        expected, leaves = to + 1, None

    steps = [(record["chain"]["seq"], 0, record) for record in records] + [(void["from"], 1, void) for void in voids]
    for number, is_void, step in sorted(steps, key=lambda step: step[:2]):
        link = step if is_void else step["chain"]
        if number < expected and not is_void:
            found["forked"].add(number)
            continue
        last = step["to"] if is_void else number
        if last < expected:
            continue
        intact = bool(is_void) or is_intact(step)
        if not is_void and closes and number > max(closes):
            found["after_close"].add(number)
        if number > expected:
            lack(number - 1, link["prev_purge_at"], bool(closes))
            head = link["prev"]
            compare(number - 1)
        elif number == expected and link["prev"] != head and was_intact:
            alter(max(number - 1, 1), number)
        if not intact:
            alter(number)
        expected, head, was_intact = last + 1, link["hash"], intact
        if leaves is not None and number == last:
            leaves.append(bytes.fromhex(head))
        else:
            leaves = None
        compare(last)
    for checkpoint in checkpoints:
        if checkpoint["size"] >= expected:
            lack(checkpoint["size"], checkpoint["purge_at"], True)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--public-key", action="append", required=True, type=pathlib.Path)
    parser.add_argument("--checkpoints", action="append", default=[], type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    keys = [load_pem_public_key(path.read_bytes()) for path in arguments.public_key]
    found = collections.defaultdict(lambda: collections.defaultdict(set))
    records, voids, checkpoints = (collections.defaultdict(list) for _ in range(3))
    not_covered = {"deliveries": 0, "actions": 0}

    def documents(name):
        with open(arguments.folder / f"{name}.ndjson", encoding="utf-8") as lines:
            yield from (decoded(json.loads(line)) for line in lines)

    for collection in not_covered:
        for record in documents(collection):
            log = record.get("chain", {}).get("log")
            if log is not None and (log == "actions") == (collection == "actions"):
                records[log].append(record)
            else:
                not_covered[collection] += 1
    for void in documents("chain_voids"):
        void = read_void(void["note"], keys)
        if void:
            voids[void["log"]].append(void)
    known = [(stored, read_checkpoint(stored["note"], keys)) for stored in documents("checkpoints")]
    for path in arguments.checkpoints:
        known += [(None, read_checkpoint(note, keys)) for note in outside(path.read_bytes())]
    for stored, checkpoint in known:
        if checkpoint is None:
            found[stored["log"] if stored else ""]["unsigned"].add(stored["size"] if stored else 0)
            continue
        for one in [checkpoint, *checkpoint["after"]]:
            checkpoints[one["log"]].append(one)
    now = datetime.datetime.now().timestamp() * 1000
    for log in records.keys() | checkpoints.keys():
        for kind, numbers in verify(log, records[log], voids[log], checkpoints[log], now).items():
            found[log][kind] |= numbers
    faults = {log: {kind: sorted(numbers) for kind, numbers in kinds.items() if numbers} for log, kinds in found.items()}
    is_whole = all(kinds.keys() <= {"purged"} for kinds in faults.values())
    print(json.dumps({"whole": is_whole, "logs": faults, "not_covered": not_covered}))
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
