"""Target: the strict layer over httptools, parse_head().

Invariant: a head is accepted only if a third reading agrees, one written here from the grammar of RFC 9112 alone:
request line and field lines match it, Host is there once, the framing is unambiguous, and names and values are those of
the field lines, in order. Nothing raises.
"""

from __future__ import annotations

import random
import re

from ladybug.protocol.fields import CHUNKED, RequestHead
from ladybug.protocol.head import parse_head
from ladybug.protocol.limits import Limits
from tests.fuzz.fuzzing import fuzz, mutate
from tests.fuzz.test_fuzz_http1 import DICTIONARY, SEEDS
from tests.protocol.heads import nearly_plain_head

REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x22\x24-\x7e]+) HTTP/1\.([01])")
FIELD_LINE = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)


def check_by_grammar(raw: bytes, head: RequestHead) -> None:
    lines = raw[:-4].split(b"\r\n")
    request = REQUEST_LINE.fullmatch(lines[0])
    assert request is not None
    method, target, minor = request.groups()
    assert (head.method.encode(), head.http11) == (method, minor == b"1")
    fields = []
    for line in lines[1:]:
        field = FIELD_LINE.fullmatch(line)
        assert field is not None, line
        fields.append((field[1].lower(), field[2]))
    if target.startswith(b"/"):
        assert head.raw_path + (b"?" + head.query if b"?" in target else b"") == target
        assert head.headers == fields
    elif target != b"*":
        without_host = [pair for pair in head.headers if pair[0] != b"host"]
        assert without_host == [pair for pair in fields if pair[0] != b"host"]
        assert head.raw_path.startswith(b"/")

    def values(name: bytes) -> list[bytes]:
        return [value for key, value in fields if key == name]

    assert len(values(b"host")) == 1 or (not head.http11 and not values(b"host"))
    lengths, codings = values(b"content-length"), values(b"transfer-encoding")
    assert len(lengths) + len(codings) <= 1
    if codings:
        assert codings[0].lower() == b"chunked" and head.http11 and head.body == CHUNKED
    elif lengths:
        assert re.fullmatch(rb"[0-9]+", lengths[0]) and head.body == int(lengths[0])
    else:
        assert head.body == 0


def target(dice: random.Random) -> None:
    raw = dice.choice(SEEDS) if dice.random() < 0.5 else nearly_plain_head(dice)
    raw = mutate(dice, raw, DICTIONARY)
    end = raw.find(b"\r\n\r\n")
    raw = raw[: end + 4] if end >= 0 else raw.strip(b"\r\n") + b"\r\n\r\n"
    head = RequestHead()
    if parse_head(head, raw, Limits()) is None:
        check_by_grammar(raw, head)


def test_head() -> None:
    fuzz(target)
