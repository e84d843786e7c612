"""A real SMTP server for the tests: smtp_real.py CERTIFICATES

Ports, login and the folder for mails come from the TEST_SMTP_* variables that the tests get too.
"""

import asyncio
import hmac
import os
import secrets
import ssl
import sys
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

SIZE_LIMIT = 30 * 1024 * 1024


class MailFolder:
    """Keeps each accepted mail as a file, with its envelope as the first two header lines."""

    def __init__(self, folder: Path):
        self.folder = folder

    async def handle_DATA(self, _server, _session, envelope) -> str:
        name = secrets.token_hex(8)
        head = f"X-Envelope-From: {envelope.mail_from}\r\nX-Envelope-To: {', '.join(envelope.rcpt_tos)}\r\n"
        # Renamed when complete, so that no test reads half a mail.
        partial = self.folder / f".{name}.partial"
        partial.write_bytes(head.encode() + envelope.content)
        partial.rename(self.folder / f"{name}.eml")
        return f"250 2.0.0 Ok: queued as {name}"


def authenticate(_server, _session, _envelope, _mechanism, login) -> AuthResult:
    expected = (os.environ["TEST_SMTP_USERNAME"], os.environ["TEST_SMTP_PASSWORD"])
    success = isinstance(login, LoginPassword) and all(
        hmac.compare_digest(given, wanted.encode()) for given, wanted in zip((login.login, login.password), expected)
    )
    # Not handled, so the server answers with its usual 535.
    return AuthResult(success=success, handled=False)


async def serve(certificates: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    # For clients with a certificate.
    mutual = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    mutual.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    mutual.verify_mode = ssl.CERT_REQUIRED
    handler = MailFolder(Path(os.environ["TEST_SMTP_MAILDIR"]))
    loop = asyncio.get_running_loop()

    async def listen(port_name: str, implicit_tls: ssl.SSLContext | None = None, **options):
        def session() -> SMTP:
            return SMTP(
                handler,
                hostname="localhost",
                data_size_limit=SIZE_LIMIT,
                enable_SMTPUTF8=True,
                loop=loop,
                **options,
            )

        port = int(os.environ[port_name])
        return await loop.create_server(session, "127.0.0.1", port, ssl=implicit_tls, backlog=1024)

    login = {"auth_required": True, "authenticator": authenticate}
    servers = [
        await listen("TEST_SMTP_PORT", tls_context=tls, require_starttls=True, **login),
        # aiosmtpd does not know of the TLS below it, so it must not require STARTTLS for a login.
        await listen("TEST_SMTP_IMPLICIT_PORT", implicit_tls=tls, auth_require_tls=False, **login),
        await listen("TEST_SMTP_CLIENT_PORT", tls_context=mutual, require_starttls=True, **login),
        await listen("TEST_SMTP_IMPLICIT_CLIENT_PORT", implicit_tls=mutual, auth_require_tls=False, **login),
        # Bound last: services.py takes it as the sign that all are up.
        await listen("TEST_SMTP_PLAIN_PORT"),
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
