"""Reads mails without any code of usher.

mail_reader.py dkim SELECTOR.DOMAIN PUBLIC_KEY_PEM <MAIL    verifies the signature by dkimpy
mail_reader.py parts <JSON                                  compares mails with one whose words are known

Each prints what is wrong, one finding a line.
"""

import base64
import json
import re
import sys
import unicodedata
from email import message_from_string, policy
from email.errors import NonASCIILocalPartDefect
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path

HEADERS = ["From", "To", "Subject", "Message-ID", "Date", "Auto-Submitted", "X-Auto-Response-Suppress"]
HEADERS += ["MIME-Version", "Content-Type"]


def dkim(place: str, key: str) -> None:
    from dkim import verify

    selector, domain = place.split(".", 1)
    mail = sys.stdin.buffer.read()
    der = base64.b64decode("".join(Path(key).read_text().splitlines()[1:-1]))
    # RFC 8463 4.2: for an Ed25519 key DNS has only the last 32 bytes of its DER.
    kind, public = ("ed25519", der[-32:]) if len(der) == 44 else ("rsa", der)
    record = f"v=DKIM1; k={kind}; p={base64.b64encode(public).decode()}".encode()

    def is_valid(mail: bytes) -> bool:
        # The key is at this name only.
        names = {f"{selector}._domainkey.{domain}.".encode(): record}
        return verify(mail, dnsfunc=lambda name, timeout=5: names.get(name))

    if not is_valid(mail):
        print("the signature is not valid")
    head, body = mail.split(b"\r\n\r\n", 1)
    if is_valid(head + b"\r\nFrom: another@example.com\r\n\r\n" + body):
        print("a second From goes unnoticed")
    if is_valid(head + b"\r\nReply-To: another@example.com\r\n\r\n" + body):
        print("another Reply-To goes unnoticed")
    for name in (b"From", b"To", b"Subject", b"Date", b"Message-ID", b"MIME-Version", b"Content-Type", b"Auto-Submitted"):
        changed, count = re.subn(rb"(?m)^(" + name + rb": .*?)([A-Za-z0-9])", change, mail, count=1)
        if count != 1 or is_valid(changed):
            print(f"a change of {name.decode()} goes unnoticed")
    letters = [m.start() for m in re.finditer(rb"[A-Za-z0-9]", body)]
    for at in (letters[0], *letters[:: len(letters) // 20], letters[-1]):
        byte = b"x" if body[at : at + 1] != b"x" else b"y"
        if is_valid(head + b"\r\n\r\n" + body[:at] + byte + body[at + 1 :]):
            print(f"a change of byte {at} goes unnoticed")


def change(match: re.Match) -> bytes:
    return match[1] + (b"x" if match[2] != b"x" else b"y")


def parts() -> None:
    """For each field there is a plain mail in which it holds `marker`. In the other mails only the value differs."""
    given = json.load(sys.stdin)
    marker = given["marker"]
    for case in given["mails"]:
        plain, mail = (base64.b64decode(raw) for raw in (given["plain"][case["field"]], case["raw"]))
        value = isolated(case["value"])
        for finding in differences(plain, mail, case["to"], lambda text: text.replace(marker, value)):
            print(f"{case['name']}: {finding}")


def isolated(value: str) -> str:
    """As Unicode isolates a value with letters from right to left, or with marks that turn what follows."""
    turns = {"R", "AL", "RLE", "LRE", "RLO", "LRO", "RLI", "LRI", "FSI"}
    return f"\u2068{value}\u2069" if any(unicodedata.bidirectional(c) in turns for c in value) else value


def differences(plain: bytes, raw: bytes, to: str, fill):
    if re.search(rb"\r(?!\n)|(?<!\r)\n|\0", raw):
        yield "a line end that is not CRLF, or a NUL"
    if (longest := max(map(len, raw.split(b"\r\n")))) > 998:
        yield f"a line of {longest} bytes"
    if to.isascii() and not raw.isascii():
        yield "not ASCII"
    mail, model = (message_from_string(message.decode(), policy=policy.default) for message in (raw, plain))
    for part in mail.walk():
        defects = [*part.defects, *(defect for header in part.values() for defect in header.defects)]
        # The parser is older than SMTPUTF8 and reports this as a defect.
        if defects and not all(isinstance(defect, NonASCIILocalPartDefect) for defect in defects):
            yield f"defects: {defects!r}"
    if mail.keys() != HEADERS:
        yield f"headers: {mail.keys()!r}"
    recipients = [address.addr_spec for address in mail["To"].addresses]
    if recipients != [to]:
        yield f"recipients: {recipients!r}"
    subject = one_line(fill(model["Subject"]))
    texts, pages = ([text_of(message, kind) for message in (mail, model)] for kind in ("plain", "html"))
    pairs = [("subject", str(mail["Subject"]), subject), ("text", texts[0], shown(fill(texts[1])))]
    found, expected = (page_of(page) for page in pages)
    if len(found) != len(expected):
        yield f"html: {len(found)} pieces, not {len(expected)}"
    for place, piece, meant in zip(range(len(found)), found, expected):
        # The title is the subject, and so is the label of the document.
        is_subject = place > 0 and expected[place - 1][:2] == ("start", "title")
        is_subject |= any(text.startswith("aria-label=") for text in meant)
        meant = tuple((one_line if is_subject else shown)(fill(text)) for text in meant)
        pairs.append((f"html piece {place}", piece, meant))
    for name, piece, meant in pairs:
        if piece != meant:
            yield f"{name}: {ascii(piece)[:300]}, not {ascii(meant)[:300]}"


def text_of(mail: EmailMessage, kind: str) -> str:
    return mail.get_body((kind,)).get_content().replace("\r\n", "\n")


def page_of(page: str) -> list[tuple[str, ...]]:
    """Tags with their attributes, text and comments, in order."""
    pieces = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: pieces.append(
        ("start", tag, *(f"{name}={value}" for name, value in attributes))
    )
    parser.handle_endtag = lambda tag: pieces.append(("end", tag))
    parser.handle_data = lambda data: pieces.append(("data", data))
    parser.handle_comment = lambda text: pieces.append(("comment", text))
    parser.handle_decl = lambda text: pieces.append(("declaration", text))
    # Means the same as the characters.
    parser.feed(page.replace("<bdi>", "\u2068").replace("</bdi>", "\u2069"))
    parser.close()
    return pieces


def is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"


def one_line(text: str) -> str:
    return " ".join("".join(" " if is_control(c) else c for c in text).split())


def shown(text: str) -> str:
    """The text as a body shows it: line ends stay, and other control characters leave a mark."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join("\ufffd" if is_control(c) and c not in "\n\t" else c for c in lines)


if __name__ == "__main__":
    {"dkim": dkim, "parts": parts}[sys.argv[1]](*sys.argv[2:])
