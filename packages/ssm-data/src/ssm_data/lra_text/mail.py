"""What a mail says: its text, without headers, attachments and transport encodings, which would give a filter away."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.message import Message

HEADERS = "text/rfc822-headers"
"""Of a part that is the head of another message."""


def body(content: bytes) -> str:
    """Return the text of a message as it came over the wire; empty if it has none.

    Of alternatives the plain one counts, else the first with a text. Texts of several parts, and of messages inside
    the message, follow each other. Quoted-printable and base64 are undone; line ends are line feeds; blanks round the
    whole are dropped. A damaged structure is read as far as it goes: no content raises.

    Args:
        content: A message of RFC 5322, with or without the line of an mbox before it.
    """
    text = "\n".join(_texts(message_from_bytes(content)))
    return re.sub(r"\r\n?", "\n", text).replace("\0", "").strip()


def _texts(part: Message) -> list[str]:
    if part.get_content_disposition() == "attachment" or part.get_content_type() == HEADERS:
        return []
    if part.is_multipart():
        inner = [each for each in part.get_payload() if isinstance(each, Message)]
        if part.get_content_type() == "multipart/alternative":
            inner = sorted(inner, key=lambda each: each.get_content_type() != "text/plain")  # stable
            return next((found for each in inner if (found := _texts(each))), [])
        return [text for each in inner for text in _texts(each)]
    # What calls itself multipart and has no parts lacks its boundaries: all of it is text.
    if part.get_content_maintype() not in ("text", "multipart"):
        return []
    text = _decoded(part)
    return [text] if text.strip() else []


def _decoded(part: Message) -> str:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    for charset in (_charset(part), "utf-8"):
        try:
            return payload.decode(charset)
        except (LookupError, ValueError):  # no such charset, or the text is not in it
            continue
    return payload.decode("latin-1")  # every byte is a character there


def _charset(part: Message) -> str:
    try:
        return part.get_content_charset("utf-8")
    except (LookupError, ValueError):
        return "utf-8"
