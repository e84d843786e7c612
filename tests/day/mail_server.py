"""A mail server that treats recipients by their names."""

from collections import Counter

from aiosmtpd.controller import Controller


class Moods:
    """`refused` get 550, `deferred` a 4xx once, `exhausted` always; mail to `vanished` is taken without a reply.
    Once it is lenient, everybody is accepted."""

    def __init__(self) -> None:
        self.deferred: set[str] = set()
        self.accepted: Counter[str] = Counter()
        self.lenient = False

    async def handle_RCPT(self, _server, _session, envelope, address, _options) -> str:
        kind = address.split("-")[0]
        if kind == "refused" and not self.lenient:
            return "550 5.1.1 no such user"
        if (kind == "exhausted" and not self.lenient) or (kind == "deferred" and address not in self.deferred):
            self.deferred.add(address)
            return "451 4.3.0 try again later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server, _session, envelope) -> str:
        if envelope.rcpt_tos[0].startswith("vanished-"):
            server.transport.abort()
        self.accepted[envelope.rcpt_tos[0]] += 1
        return "250 2.0.0 Ok"


def controller(moods: Moods, port: int) -> Controller:
    return Controller(moods, hostname="127.0.0.1", port=port, ready_timeout=30)
