"""A token endpoint and mail servers that take its tokens: oauth_server.py SETTINGS

SETTINGS is JSON; `Behaviour` has its fields, and `certificates`, `client_ca`, `client_cert` are files. The first line
of output has the ports. Each further line of input is JSON with fields to change, or `{}`; it is answered by what
happened so far.
"""

import asyncio
import base64
import hashlib
import json
import ssl
import sys
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

import jwt
from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

USER = "ana@example.org"
CLIENT = "usher"
SCOPE = "https://mail.google.com/"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class Behaviour:
    expires_in: float = 3600
    delay: float = 0
    client_secret: str = "right"
    # Status, headers and body instead of a token.
    answer: list | None = None
    # What AUTH, MAIL and the end of a mail are answered with.
    login: str | None = None
    # Whose tokens these are.
    mailbox: str = "bounces"
    mail: str | None = None
    dot: str | None = None


@dataclass
class Happened:
    asked: int = 0
    asked_at_once: int = 0
    # Seconds that the token before still had when the next was asked for.
    left: list[float] = field(default_factory=list)
    # Claims that PyJWT has verified.
    claims: list[dict] = field(default_factory=list)
    # What was wrong with assertions.
    faults: list[str] = field(default_factory=list)
    logins: int = 0
    refused: int = 0
    mails: int = 0


class Server:
    def __init__(self, settings: dict):
        self.certificate = settings.pop("client_cert", None)
        self.certificates = settings.pop("certificates", None)
        self.client_ca = settings.pop("client_ca", None)
        self.behaviour = Behaviour(**settings)
        self.happened = Happened()
        self.asking = 0
        self.tokens: dict[str, float] = {}
        self.url = ""

    def grant(self, form: dict[str, str]) -> tuple[int, dict[str, str], str]:
        """Who asks, as the providers' documents have it."""
        kind = form.get("grant_type")
        if kind == "client_credentials" and "client_assertion" in form:
            good = form.get("client_assertion_type") == JWT_BEARER and self.verified(
                form["client_assertion"], "PS256", CLIENT, ["aud", "exp", "iat", "nbf", "iss", "sub", "jti"]
            )
        elif kind == "urn:ietf:params:oauth:grant-type:jwt-bearer":
            good = self.verified(form["assertion"], "RS256", "svc@project.example", ["aud", "exp", "iat", "iss", "sub"])
        else:
            good = kind == "client_credentials" and form.get("client_secret") == self.behaviour.client_secret
        if not good:
            refusal = {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."}
            return 401, {}, json.dumps(refusal)
        token = f"ya29.{self.happened.asked}"
        self.happened.left.append(round(max(self.tokens.values(), default=time.monotonic()) - time.monotonic(), 2))
        self.tokens[token] = time.monotonic() + self.behaviour.expires_in
        return 200, {}, json.dumps({"access_token": token, "expires_in": self.behaviour.expires_in})

    def verified(self, assertion: str, algorithm: str, issuer: str, required: list[str]) -> bool:
        certificate = x509.load_pem_x509_certificate(Path(self.certificate).read_bytes())
        try:
            claims = jwt.decode(
                assertion,
                certificate.public_key(),
                algorithms=[algorithm],
                audience=self.url,
                issuer=issuer,
                options={"require": required},
            )
        except jwt.PyJWTError as error:
            self.happened.faults.append(repr(error))
            return False
        head = jwt.get_unverified_header(assertion)
        if algorithm == "PS256":
            digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
            if head.get("x5t#S256") != base64.urlsafe_b64encode(digest).rstrip(b"=").decode():
                self.happened.faults.append("x5t#S256")
                return False
        self.happened.claims.append(claims | {"head": head})
        return True

    async def token_endpoint(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /tokeninfo"):
                # As dovecot asks, for one mailbox.
                token = head.split(b" ")[1].decode().partition("access_token=")[2]
                good = self.tokens.get(token, 0) > time.monotonic()
                body = json.dumps({"email": self.behaviour.mailbox} if good else {"error": "invalid_token"})
                status = "200 OK" if good else "400 x"
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
                await writer.drain()
                return
            lines = [line.split(b":", 1) for line in head.splitlines() if b":" in line]
            length = next(int(value) for name, value in lines if name.lower() == b"content-length")
            form = dict(urllib.parse.parse_qsl((await reader.readexactly(length)).decode()))
            self.happened.asked += 1
            self.asking += 1
            self.happened.asked_at_once = max(self.happened.asked_at_once, self.asking)
            await asyncio.sleep(self.behaviour.delay)
            self.asking -= 1
            status, headers, body = self.behaviour.answer or self.grant(form)
            headers = {"Content-Length": str(len(body)), "Connection": "close"} | headers
            told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            writer.write(f"HTTP/1.1 {status} x\r\n{told}\r\n{body}".encode())
            await writer.drain()
        finally:
            writer.close()

    # Hooks of aiosmtpd.

    async def auth_XOAUTH2(self, server: SMTP, arguments: list[str]) -> AuthResult:
        given = base64.b64decode(arguments[1]).decode()
        token = given.removeprefix(f"user={USER}\x01auth=Bearer ").removesuffix("\x01\x01")
        good = self.tokens.get(token, 0) > time.monotonic()
        if self.behaviour.login is None and good:
            self.happened.logins += 1
            return AuthResult(success=True)
        self.happened.refused += 1
        if self.behaviour.login is None:
            reason = base64.b64encode(json.dumps({"status": "400", "scope": SCOPE}).encode()).decode()
            await server.push(f"334 {reason}")
            await server._reader.readline()
        return AuthResult(success=False, handled=False, message=self.behaviour.login or "535 5.7.8 not accepted")

    async def handle_MAIL(self, _server, _session, envelope, address: str, options: list[str]) -> str:
        if self.behaviour.mail:
            return self.behaviour.mail
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, _server, _session, _envelope) -> str:
        if self.behaviour.dot:
            return self.behaviour.dot
        self.happened.mails += 1
        return f"250 2.0.0 Ok: queued as {self.happened.mails}"


async def main() -> None:
    server = Server(json.loads(sys.argv[1]))
    loop = asyncio.get_running_loop()

    async def mail_server(tls: ssl.SSLContext | None = None, exclude: list[str] | None = None) -> int:
        def session() -> SMTP:
            return SMTP(
                server,
                hostname="localhost",
                loop=loop,
                auth_require_tls=False,
                auth_exclude_mechanism=exclude or [],
                enable_SMTPUTF8=True,
            )

        listening = await loop.create_server(session, "127.0.0.1", 0, ssl=tls, backlog=1024)
        return listening.sockets[0].getsockname()[1]

    endpoint = await asyncio.start_server(server.token_endpoint, "127.0.0.1", 0, backlog=1024)
    port = endpoint.sockets[0].getsockname()[1]
    server.url = f"http://127.0.0.1:{port}/token"
    ports = {"token": port, "smtp": await mail_server(), "password_only": await mail_server(exclude=["XOAUTH2"])}
    if server.certificates:
        # It knows the root alone, so a client has to show what lies between.
        mutual = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=server.client_ca)
        mutual.load_cert_chain(f"{server.certificates}/server.pem", f"{server.certificates}/server.key")
        mutual.verify_mode = ssl.CERT_REQUIRED
        ports["mutual"] = await mail_server(tls=mutual)
    print(json.dumps(ports), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        for name, value in json.loads(line).items():
            setattr(server.behaviour, name, value)
        print(json.dumps(vars(server.happened)), flush=True)


asyncio.run(main())
