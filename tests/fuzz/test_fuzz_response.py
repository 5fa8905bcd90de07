"""Target: response heads, HeadWriter.

Invariant: for any list of headers, write_start() raises TypeError or ValueError, or the bytes it wrote are exactly the status
line, one line for each field given (but for those that belong to the server), and the server's own: nobody can put a line
into a response that was not given as one.
"""

from __future__ import annotations

import random
import re

from librt.strings import BytesWriter

from ladybug.asgi.response import HeadWriter
from tests.fuzz.fuzzing import fuzz

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
WORDS = (
    *(
        b"a",
        b"content-length",
        b"Content-Length",
        b"transfer-encoding",
        b"connection",
        b"date",
        b"Server",
        b"set-cookie",
    ),
    *(
        b"chunked",
        b"close",
        b"0",
        b"12",
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b": ",
        b" ",
        b"\t",
        b"\x01",
        b"\x7f",
        b"\xff",
        b"xxxxxxxx",
    ),
)
# One for all: what it learns from one response must not show in another.
WRITER = HeadWriter([(b"x-own", b"1")], True, True)


def lines_of(raw: bytes) -> list[bytes]:
    assert raw.endswith(b"\r\n")
    lines = raw[:-2].split(b"\r\n")
    for line in lines:
        assert b"\r" not in line and b"\n" not in line and b"\0" not in line, raw
    return lines


def check_head(headers: list[tuple[bytes, bytes]], status: int) -> None:
    writer = BytesWriter()
    good = all(TOKEN.fullmatch(name) and not re.search(rb"[\r\n\0]", value) for name, value in headers)
    lengths = [value for name, value in headers if name.lower() == b"content-length"]
    framed = len(lengths) <= 1 and all(re.fullmatch(rb"[0-9]{1,18}", value) for value in lengths)
    codings = [value for name, value in headers if name.lower() == b"transfer-encoding"]
    try:
        WRITER.write_start(writer, status, headers)
    except ValueError:
        assert not good or not framed or any(value.lower() != b"chunked" for value in codings), headers
        return
    assert good and framed, headers
    servers = {b"connection", b"transfer-encoding"} | ({b"content-length"} if status == 204 else set())
    expected = [name + b": " + value for name, value in headers if name.lower() not in servers]
    lines = lines_of(writer.getvalue())
    assert lines[1 : len(expected) + 1] == expected
    own = [line.partition(b":")[0] for line in lines[len(expected) + 1 :]]
    given = {name.lower() for name, _ in headers}
    assert own == [name for name in (b"date", b"server") if name not in given] + [b"x-own"]


def target(dice: random.Random) -> None:
    def odd() -> bytes:
        return b"".join(dice.choices(WORDS, k=dice.choice((0, 1, 1, 1, 2, 3))))

    headers = []
    for _ in range(dice.randrange(5)):
        name = dice.choice(WORDS[:8]) if dice.random() < 0.8 else odd()
        value = dice.choice((b"chunked", b"12", b"some text")) if dice.random() < 0.7 else odd()
        headers.append((name, value))
    check_head(headers, dice.choice((200, 204, 304, 404)))


def test_response() -> None:
    fuzz(target)
