"""The day's events: what is published where, and the expected outcome."""

import json
from collections import Counter
from datetime import datetime, timedelta, timezone

BOOKINGS, PAYMENTS = "notification.booking_events", "notification.payment_events"
ACCOUNTS = "notification.account_events"


def confirmed(kind: str, n: int) -> dict:
    show = datetime.now(timezone.utc) + timedelta(days=1, minutes=n)
    return {
        "event_type": "booking.confirmed",
        "user_email": f"{kind}-{n}@example.com",
        "booking_id": f"{kind}-{n}",
        "movie_title": "Solaris",
        "showtime": show.isoformat(),
        "seats": ["A1", "A2"],
        "total_amount": "25.50",
    }


def paid(kind: str, n: int) -> dict:
    return {
        "event_type": "payment.success",
        "user_email": f"{kind}-{n}@example.com",
        "booking_id": f"{kind}-{n}",
        "transaction_id": f"T-{kind}-{n}",
        "amount": 25.5,
        "payment_method": "card",
    }


def cancelled(kind: str, n: int) -> dict:
    return {"event_type": "booking.cancelled", "user_email": f"{kind}-{n}@example.com", "booking_id": f"{kind}-{n}"}


def login(kind: str, n: int) -> dict:
    return {"event_type": "auth.login", "email": f"{kind}-{n}@example.com", "full_name": "Ana", "ip_address": "192.0.2.1"}


def code(kind: str, n: int) -> dict:
    return {"event_type": "auth.two_factor_code", "email": f"{kind}-{n}@example.com", "full_name": "Ana", "verification_code": f"{n:06}"}


def soon(kind: str, n: int) -> dict:
    due = datetime.now(timezone.utc) + timedelta(seconds=20)
    return paid(kind, n) | {"deliver_at": due.isoformat()}


# Kind, number, queue, body, and the expected last record. The mail server treats some kinds by their address.
KINDS = [
    ("booking", 500, BOOKINGS, confirmed, "sent"),
    ("payment", 400, PAYMENTS, paid, "sent"),
    ("cancelled", 100, BOOKINGS, cancelled, "sent"),
    ("login", 400, ACCOUNTS, login, "sent"),
    ("code", 100, ACCOUNTS, code, "sent"),
    ("deferred", 100, PAYMENTS, paid, "sent"),
    ("soon", 40, PAYMENTS, soon, "sent"),
    ("exhausted", 30, PAYMENTS, paid, "failed"),
    ("refused", 60, PAYMENTS, paid, "failed"),
    ("incomplete", 40, PAYMENTS, lambda kind, n: paid(kind, n) | {"amount": None}, "failed"),
    ("invalid", 20, PAYMENTS, lambda kind, n: paid(kind, n) | {"user_email": f"{kind}-{n} at example.com"}, "failed"),
    ("vanished", 20, PAYMENTS, paid, "unknown"),
    ("strange", 30, BOOKINGS, lambda kind, n: {"event_type": "no.such.type"}, "rejected"),
]
# Not an event; the same event again; the same fact in another event.
BROKEN, AGAIN, RETOLD = 10, 100, 50
EVENTS = sum(count for _, count, *_ in KINDS) + BROKEN + AGAIN + RETOLD


def all_events() -> list[tuple[str, bytes]]:
    """Queue and body of each, in the order of the day: kinds mixed, repeated events at the end."""
    day = []
    for kind, count, queue, make, _ in KINDS:
        for n in range(count):
            body = make(kind, n) | {"event_id": f"{kind}-{n}", "occurred_at": datetime.now(timezone.utc).isoformat()}
            day.append((n / count, queue, json.dumps(body).encode()))
    day += [(n / BROKEN, BOOKINGS, f"no event {n}".encode()) for n in range(BROKEN)]
    day.sort(key=lambda one: one[0])
    again = [(queue, body) for _, queue, body in day if b'"event_id": "login-' in body][:AGAIN]
    retold = [(PAYMENTS, json.dumps(paid("payment", n) | {"event_id": f"retold-{n}"}).encode()) for n in range(RETOLD)]
    return [(queue, body) for _, queue, body in day] + again + retold


def expected() -> Counter:
    """(kind, last record) of each event of the day that has a delivery of its own."""
    words = Counter({(kind, word): count for kind, count, _, _, word in KINDS})
    words[("", "rejected")] = BROKEN
    return words
