"""Request heads to compare parsers with: plain ones, and such as are nearly plain."""

from __future__ import annotations

import random

METHODS = (b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"PATCH", b"OPTIONS")
TARGET_BYTES = bytes(byte for byte in range(0x21, 0x7F) if byte != 0x23)
VALUE_BYTES = bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100)) + b"\t"
# Names with a meaning, names of the table of every length and first letter, near misses of both.
NAMES = (
    b"Accept|Accept-Encoding|Accept-Language|Access-Control-Request-Headers|Access-Control-Request-Method|Authorization|"
    b"Cache-Control|CF-Ray|Content-Type|Cookie|Date|DNT|Expect|From|If-None-Match|If-Unmodified-Since|Keep-Alive|Origin|"
    b"Pragma|Proxy-Authorization|Range|Referer|Sec-CH-UA-Platform|Sec-Fetch-Mode|Sec-WebSocket-Extensions|TE|Trailer|"
    b"Upgrade|Upgrade-Insecure-Requests|User-Agent|Via|X-Amzn-Trace-Id|X-Forwarded-For|X-Forwarded-Proto|"
    b"X-Forwarded-Host|X-Forwarded-Server|X-Request-Id|X-Requested-With|"
    b"Hos|Hosts|Content-Lengt|Content-Length2|Content_Length|Connectio|Connections|X|XX|A-Name-That-No-Table-Holds-Whatever|"
    b"T|Tes|Upgrade-Insecure-Request|Access-Control-Request-Header|Access-Control-Request-HeaderX|Sec-WebSocket-Extension"
).split(b"|")
ODD_LINES = (
    *(
        b"Connection: keep-alive",
        b"Connection: Keep-Alive",
        b"Connection: close",
        b"Connection: Close",
        b"Connection: ",
    ),
    *(b"Connection: keep-alive, close", b"Connection: upgrade", b"connection:close\t", b"Connection: close,"),
    *(b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: 000", b"Content-Length:5 ", b"Content-Length: 5\t"),
    *(b"Content-Length: -1", b"Content-Length: 1 1", b"Content-Length: " + b"9" * 18, b"Content-Length: " + b"9" * 19),
    *(
        b"Content-Length: 5, 5",
        b"Content-Length:",
        b"Content-Length: +5",
        b"Content-Length: 0x5",
        b"Content-Length: 5\x0b",
    ),
    *(b"Host: b", b"Host:", b"Host: a:80", b"Host: a:", b"Host: a:123456", b"Host: a b", b"Host: [::1]", b"Host: u@a"),
    *(b"Host:\ta\t", b"Host: a%41", b"Host: a_b", b"Host: A-.b:0", b"Host: \xe9", b"Host: a:8a"),
    *(
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding:",
        b"Expect: 100-continue",
        b"Expect: x",
    ),
    *(b"X-Forwarded-For:", b"x-forwarded-proto: https", b" X: 1", b"\tX: 1", b"X : 1", b"X", b": 1", b":", b""),
)
CONTROLS = bytes(range(0x20)) + b"\x7f"


def plain_head(dice: random.Random) -> bytes:
    """A head that the scanner must take: one Host, fields nobody can misread."""
    target = b"/" + bytes(dice.choices(TARGET_BYTES, k=dice.randrange(30)))
    if dice.random() < 0.3:
        target += b"?" + bytes(dice.choices(TARGET_BYTES, k=dice.randrange(10)))
    lines = [_field(dice) for _ in range(dice.randrange(8))]
    lines.insert(
        dice.randrange(len(lines) + 1), _cased(dice, b"Host") + b": " + dice.choice((b"a", b"A.b-c:80", b"1.2.3.4"))
    )
    if dice.random() < 0.3:
        lines.insert(dice.randrange(len(lines) + 1), _cased(dice, b"Content-Length") + b": %d" % dice.randrange(10**18))
    if dice.random() < 0.3:
        lines.append(_cased(dice, b"Connection") + b": " + dice.choice((b"close", b"keep-alive", b"Keep-Alive")))
    line = dice.choice(METHODS) + b" " + target + b" HTTP/1." + dice.choice((b"0", b"1"))
    return b"\r\n".join([line, *lines]) + b"\r\n\r\n"


def nearly_plain_head(dice: random.Random) -> bytes:
    """A plain head with a few things wrong, or only unusual."""
    lines = plain_head(dice)[:-4].split(b"\r\n")
    for _ in range(dice.randrange(3)):
        action = dice.randrange(4)
        place = dice.randrange(1, len(lines) + 1)
        if action == 0:
            lines.insert(place, dice.choice(ODD_LINES))
        elif action == 1:
            lines.insert(place, dice.choice(lines[1:] or ODD_LINES))
        elif action == 2:
            lines[place:] = lines[place + 1 :]
        else:
            lines[0] = _odd_request_line(dice, lines[0])
    head = bytearray(b"\r\n".join(lines))
    for _ in range(dice.choice((0, 1, 1, 2, 5))):
        _damage(dice, head)
    return bytes(head) + b"\r\n\r\n"


def _field(dice: random.Random) -> bytes:
    name = dice.choice(NAMES)
    if name == b"Expect":
        name = b"X-Expect"
    blank = dice.choice((b" ", b" ", b"", b"\t", b"  \t"))
    value = bytes(dice.choices(VALUE_BYTES, k=dice.choice((0, 1, 5, 7, 8, 9, 20, 40))))
    return _cased(dice, name) + b":" + blank + value + dice.choice((b"", b"", b" ", b"\t "))


def _cased(dice: random.Random, name: bytes) -> bytes:
    way = dice.randrange(4)
    if way == 0:
        return name.lower()
    if way == 1:
        return name.upper()
    if way == 2:
        return bytes(byte ^ 0x20 if dice.random() < 0.5 and chr(byte).isalpha() else byte for byte in name)
    return name


def _odd_request_line(dice: random.Random, line: bytes) -> bytes:
    method, _, rest = line.partition(b" ")
    return dice.choice(
        (
            b"get " + rest,
            b"QUERY " + rest,
            b"CONNECT " + rest,
            method + b"  " + rest,
            method + b" http://a" + rest,
            method + b" *" + rest[-9:],
            line + b" ",
            line[:-1],
            line[:-1] + b"2",
            line.replace(b"HTTP/1", b"HTTP/2"),
            line.replace(b"HTTP", b"http"),
            line.replace(b" /", b" /%41#", 1),
            line[: -len(b" HTTP/1.1")],
        )
    )


def _damage(dice: random.Random, head: bytearray) -> None:
    place = dice.randrange(len(head))
    way = dice.randrange(6)
    if way == 0:
        head[place] ^= 1 << dice.randrange(8)
    elif way == 1:
        head[place] = dice.randrange(256)
    elif way == 2:
        head.insert(place, dice.choice(CONTROLS))
    elif way == 3:
        head.insert(place, dice.choice(b" \t:%?\r\n-"))
    elif way == 4:
        del head[place]
    else:
        head[place : place + 1] = dice.choice((b"\r\n", b"\n", b"\r", b"\r\n ", b"\xff\xfe", b"\x00"))
