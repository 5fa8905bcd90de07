"""HTTP/1.1 receiving: what is accepted, what is refused and with which status, however the bytes arrive."""

from __future__ import annotations

import random
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladybug.protocol import errors
from ladybug.protocol.errors import Refusal
from ladybug.protocol.http1 import COMPLETE, DATA, END, ERROR, NEED_DATA, REQUEST, HeadParser, Http1
from ladybug.protocol.limits import Limits
from tests.corpus.accepted import ACCEPTED, Accepted
from tests.corpus.feeding import FEEDINGS, Feeding, byte_by_byte, cuts, whole
from tests.corpus.refused import REFUSED, Refused
from tests.protocol.events import Outcome, Player, play

HOST = b"Host: a\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"


def request(line: bytes = b"GET / HTTP/1.1", fields: bytes = HOST, content: bytes = b"") -> bytes:
    return line + b"\r\n" + fields + b"\r\n" + content


def fields(lines: bytes) -> bytes:
    """A POST with a good Host and these field lines."""
    return request(b"POST / HTTP/1.1", HOST + lines)


def refusal_of(pieces: Iterable[bytes]) -> Refusal | None:
    parser = Http1(HeadParser(Limits()))
    for piece in pieces:
        parser.receive_data(piece)
        if parser.next_event() == ERROR:
            return parser.refusal
    return None


def chunks(content: bytes) -> bytes:
    """A POST with this chunked content."""
    return request(b"POST / HTTP/1.1", HOST + b"Transfer-Encoding: chunked\r\n", content)


# -- The corpus that whole servers are judged by as well ------------------------------------------------------------------


@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_what_is_right_is_understood(case: Accepted, feeding: Feeding) -> None:
    outcome = play(feeding(case.raw))

    assert outcome.status == 0, outcome.reason
    assert len(outcome.messages) == len(case.requests)
    for message, expected in zip(outcome.messages, case.requests, strict=True):
        head = message.head
        assert list(head.headers) == expected.headers
        assert (head.method, head.raw_path, head.query) == (expected.method, expected.raw_path, expected.query)
        assert unquote_to_bytes(head.raw_path).decode() == expected.path
        assert head.encoded == (b"%" in expected.raw_path)
        assert head.http11 == (expected.version == "1.1")
        assert message.content == expected.body
        assert message.complete


@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_is_wrong_is_refused(case: Refused, feeding: Feeding) -> None:
    outcome = play(feeding(case.raw))

    assert outcome.status in case.statuses
    assert [message.complete for message in outcome.messages] == [True] * case.before + [False] * case.in_body


# -- Exact statuses -------------------------------------------------------------------------------------------------------

REFUSALS = {
    # RFC 9112 section 3
    "an empty method": (request(b" / HTTP/1.1"), 400),
    "a method that is no token": (request(b"GE(T / HTTP/1.1"), 400),
    "an unknown method": (request(b"BREW / HTTP/1.1"), 501),
    "a method in lower case": (request(b"get / HTTP/1.1"), 501),
    "CONNECT": (request(b"CONNECT a:1 HTTP/1.1"), 501),
    "no target": (request(b"GET HTTP/1.1"), 400),
    "an empty target": (request(b"GET  HTTP/1.1"), 400),
    "a fragment": (request(b"GET /a#b HTTP/1.1"), 400),
    "a target of obs-text": (request(b"GET /\xff HTTP/1.1"), 400),
    "a DEL in the target": (request(b"GET /\x7f HTTP/1.1"), 400),
    "authority-form": (request(b"GET a:1 HTTP/1.1"), 400),
    "another scheme": (request(b"GET ftp://a/ HTTP/1.1"), 400),
    "an odd target and no field": (b"GET ht|p://a/ HTTP/1.1\r\n\r\n", 400),
    "an odd target, 1.0, and no field": (b"GET ht|p://a/ HTTP/1.0\r\n\r\n", 400),
    "userinfo in the authority": (request(b"GET http://u@a/ HTTP/1.1"), 400),
    "an absolute target without authority": (request(b"GET http:///x HTTP/1.1"), 400),
    "no version": (request(b"GET /"), 400),
    "HTTP/0.9": (request(b"GET / HTTP/0.9"), 505),
    "HTTP/1.2": (request(b"GET / HTTP/1.2"), 505),
    "HTTP/2.0": (request(b"GET / HTTP/2.0"), 505),
    "a version of two digits": (request(b"GET / HTTP/1.11"), 400),
    "a TLS client": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", 400),
    # RFC 9112 section 2.2
    "a bare LF after the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "bare LFs only": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "a bare CR in the request line": (b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a bare CR that nothing follows soon": (b"GET / HTTP/1.1\rHost: a", 400),
    "a bare CR in a value that does not end": (b"GET / HTTP/1.1\r\nHost: a\r\nX: \r1", 400),
    "a bare LF before the request line": (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    # RFC 9112 section 5
    "a space before the colon": (fields(b"X : 1\r\n"), 400),
    "obs-fold": (fields(b"X: 1\r\n 2\r\n"), 400),
    "obs-fold of nothing but white space": (fields(b"X: 1\t\r\n \t\r\n"), 400),
    "no colon": (fields(b"X\r\n"), 400),
    "an empty name": (fields(b": 1\r\n"), 400),
    "a NUL in a value": (fields(b"X: \x001\r\n"), 400),
    "a BEL in a value": (fields(b"X: 1\x07\r\n"), 400),
    "a DEL in a value": (fields(b"X: a\x7fb\r\n"), 400),
    "obs-text in a name": (fields(b"\xe9: 1\r\n"), 400),
    "a known name with a CR for its hyphen": (fields(b"User\rAgent: 1\r\n"), 400),
    # RFC 9112 section 3.2
    "no Host": (request(fields=b""), 400),
    "two Hosts": (request(fields=HOST * 2), 400),
    "two Hosts in 1.0": (request(b"GET / HTTP/1.0", HOST * 2), 400),
    "a bad Host": (request(fields=b"Host: a b\r\n"), 400),
    "a bad Host in 1.0": (request(b"GET / HTTP/1.0", b"Host: a/b\r\n"), 400),
    "a Host with a port of six digits": (request(fields=b"Host: a:123456\r\n"), 400),
    # RFC 9112 section 6
    "two lengths": (fields(b"Content-Length: 1\r\nContent-Length: 1\r\n"), 400),
    "a list of lengths": (fields(b"Content-Length: 1, 1\r\n"), 400),
    "a signed length": (fields(b"Content-Length: +1\r\n"), 400),
    "an empty length": (fields(b"Content-Length:\r\n"), 400),
    "a length of 19 digits": (fields(b"Content-Length: 9999999999999999999\r\n"), 400),
    "a length in letters": (fields(b"Content-Length: 1e3\r\n"), 400),
    "length and coding": (fields(b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400),
    "an unknown coding": (fields(b"Transfer-Encoding: gzip, chunked\r\n"), 501),
    "chunked not last": (fields(b"Transfer-Encoding: chunked, gzip\r\n"), 400),
    "chunked twice": (fields(b"Transfer-Encoding: chunked, chunked\r\n"), 400),
    "chunked in two lines": (fields(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400),
    "an empty coding": (fields(b"Transfer-Encoding:\r\n"), 400),
    "a coding in 1.0": (request(b"POST / HTTP/1.0", HOST + b"Transfer-Encoding: chunked\r\n"), 400),
    # RFC 9112 section 7.1
    "no chunk size": (chunks(b"\r\n"), 400),
    "a chunk size of letters": (chunks(b"xyz\r\n"), 400),
    "a negative chunk size": (chunks(b"-1\r\n"), 400),
    "a chunk size of 16 digits": (chunks(b"0000000000000001\r\nx\r\n"), 400),
    "a chunk longer than its size": (chunks(b"1\r\nxy\r\n"), 400),
    "a chunk that ends with LF": (chunks(b"1\r\nx\n"), 400),
    "a size that ends with LF": (chunks(b"1\nx\r\n"), 400),
    "a size before a space": (chunks(b"1 \r\nx\r\n"), 400),
    "a bad trailer": (chunks(b"0\r\nx\r\n\r\n"), 400),
    "a trailer with a control": (chunks(b"0\r\nx: \x01\r\n\r\n"), 400),
}


@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
@pytest.mark.parametrize(("raw", "status"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_has_its_exact_status(raw: bytes, status: int, feeding: Feeding) -> None:
    assert play(feeding(raw)).status == status


@pytest.mark.parametrize("method", ["DESCRIBE", "PLAY", "SET_PARAMETER", "PRI", "CONNECT", "get", "LADYBUG"])
@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
def test_methods_of_other_protocols_are_not_implemented(method: str, feeding: Feeding) -> None:
    assert play(feeding(request(method.encode() + b" /x HTTP/1.1"))).status == 501


@pytest.mark.parametrize("target", [b"x", b"?x", b"a:80", b"http:/x", b"*"])
@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
def test_a_bad_target_is_called_that(target: bytes, feeding: Feeding) -> None:
    assert refusal_of(feeding(request(b"GET " + target + b" HTTP/1.1"))) is errors.BAD_TARGET


@pytest.mark.parametrize(
    "line", [b"Transfer-Encoding: chunked\t", b"Transfer-Encoding:\tchunked \t", b"Content-Length: 3\t"]
)
@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
def test_white_space_around_values_may_be_tabs(line: bytes, feeding: Feeding) -> None:
    """RFC 9110 section 5.6.3."""
    body = b"3\r\nabc\r\n0\r\n\r\n" if b"chunked" in line else b"abc"
    outcome = play(feeding(request(b"POST / HTTP/1.1", HOST + line + b"\r\n") + body))
    (message,) = outcome.messages
    assert (message.content, outcome.status) == (b"abc", 0)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "TRACE", "SEARCH"])
@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
def test_methods_are_told_apart(method: str, feeding: Feeding) -> None:
    outcome = play(feeding(request(method.encode() + b" /x HTTP/1.1")))
    assert [message.head.method for message in outcome.messages] == [method]


@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
@pytest.mark.parametrize(
    ("version", "connection", "persistent"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: Close\r\n", False),
        (b"1.1", b"Connection: CLOSE\r\n", False),
        (b"1.1", b"Connection: x, close\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: close\r\nConnection: keep-alive\r\n", False),
        (b"1.1", b"Connection: closed\r\n", True),
        (b"1.1", b"Connection:\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: KEEP-ALIVE\t,x\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.0", b"Connection: close\r\n", False),
        (b"1.0", b"Keep-Alive: timeout=5\r\n", False),
    ],
)
def test_persistence(version: bytes, connection: bytes, persistent: bool, feeding: Feeding) -> None:
    raw = b"GET / HTTP/" + version + b"\r\n" + HOST + connection + b"\r\n"
    assert [message.head.persistent for message in play(feeding(raw)).messages] == [persistent]


# -- However the bytes arrive ---------------------------------------------------------------------------------------------

CORPUS = [case.raw for case in ACCEPTED] + [case.raw for case in REFUSED] + [raw for raw, _ in REFUSALS.values()]


def statuses(outcome: Outcome) -> tuple[object, int]:
    """What must not depend on the cuts. The reason may: a broken head can break several rules of one status."""
    return outcome.messages, outcome.status


@pytest.mark.parametrize("raw", [raw for raw in CORPUS if len(raw) < 2000], ids=lambda raw: repr(raw[:60]))
def test_every_cut_in_two_gives_the_same(raw: bytes) -> None:
    expected = statuses(play([raw]))
    for place in range(1, len(raw)):
        assert statuses(play([raw[:place], raw[place:]])) == expected, f"cut at {place}"


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_random_cuts_give_the_same(data: st.DataObject) -> None:
    raw = data.draw(st.sampled_from(CORPUS))
    pieces = data.draw(cuts(raw))
    assert statuses(play(pieces)) == statuses(play([raw]))


_LINES = [
    *(b"Host: a", b"Host: ", b"Host: a:80", b"host: [::1]", b"Host: a b", b"Content-Length: 3", b"Content-Length: 03"),
    *(b"Content-Length: 3\t", b"content-length: x", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip"),
    *(b"Connection: close", b"Connection: keep-alive, x", b"Expect: 100-continue", b"X-Forwarded-For: 1.2.3.4"),
    *(b"Cookie: a=b\tc", b"X: \xff\x80", b"X-Long-Name-That-Nobody-Knows-At-All: 1", b"X : 1", b" X: 1", b": 1", b""),
    *(b"X: \x00", b"X: \r", b"X: \n", b"X\x7f: 1"),
]
_REQUEST_LINES = [
    *(b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"POST /a?b HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET http://b/c HTTP/1.1"),
    *(b"GET / HTTP/2.0", b"FETCH / HTTP/1.1", b"GET  / HTTP/1.1", b"GET /%41 HTTP/1.1", b"", b"\x00"),
]
_CONTENTS = [
    *(
        b"",
        b"abc",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"3;x\r\nabc\r\n0\r\nT: 1\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"0\r\n\r\n",
    ),
]
streams = st.lists(
    st.tuples(
        st.sampled_from(_REQUEST_LINES[:5]) | st.sampled_from(_REQUEST_LINES),
        st.lists(st.sampled_from(_LINES[:4]) | st.sampled_from(_LINES), max_size=4),
        st.sampled_from(_CONTENTS),
    ),
    max_size=3,
).map(lambda parts: b"".join(b"\r\n".join([line, *lines]) + b"\r\n\r\n" + content for line, lines, content in parts))


def verdict(outcome: Outcome) -> tuple[object, bool]:
    """For heads with several faults at once: which of them is seen first may depend on the cuts, nothing else."""
    return outcome.messages, outcome.status != 0


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_random_requests_and_random_cuts_give_the_same(data: st.DataObject) -> None:
    raw = data.draw(streams)
    pieces = data.draw(cuts(raw)) if raw else []
    assert verdict(play(pieces)) == verdict(play([raw]))
    assert verdict(play(byte_by_byte(raw))) == verdict(play([raw]))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_no_bytes_at_all_raise(pieces: list[bytes]) -> None:
    play(pieces)
    play([GET, *pieces])
    play([chunks(b""), *pieces])


# -- Pipelining: where one message ends the next begins -------------------------------------------------------------------


def test_nothing_of_the_next_request_is_looked_at_before_its_turn() -> None:
    core = Http1(HeadParser(Limits()))
    core.receive_data(GET + b"nonsense\x00\r\n\r\n")

    assert core.next_event() == REQUEST
    assert core.state == COMPLETE
    assert core.next_event() == END and core.next_event() == END, "asking again does no harm"
    assert core.has_input()
    core.start_next_cycle()
    assert core.next_event() == ERROR


@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
def test_boundaries_between_messages_are_exact(feeding: Feeding) -> None:
    bodies = [b"", b"0123456789", GET, b"\r\n\r\n", b"x" * 70000, b"0\r\n\r\n"]
    raw = b"".join(
        request(b"POST /%d HTTP/1.1" % number, HOST + b"Content-Length: %d\r\n" % len(body), body)
        + request(
            b"PUT /%d HTTP/1.1" % number,
            HOST + b"Transfer-Encoding: chunked\r\n",
            (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\nx: y\r\n\r\n",
        )
        for number, body in enumerate(bodies)
    )

    outcome = play(feeding(raw))

    assert outcome.status == 0
    assert [message.content for message in outcome.messages] == [body for body in bodies for _ in range(2)]
    assert [message.head.raw_path for message in outcome.messages] == [b"/%d" % (at // 2) for at in range(12)]
    assert all(message.complete for message in outcome.messages)


def test_a_thousand_requests_in_one_piece() -> None:
    raw = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(1000))
    outcome = play([raw])
    assert [message.head.raw_path for message in outcome.messages] == [b"/%d" % number for number in range(1000)]


def test_a_request_without_content_ends_with_its_head() -> None:
    player = Player()
    player.feed(GET)
    assert player.outcome.messages[0].complete
    assert not player.core.has_input()


def test_content_is_handed_on_as_it_comes() -> None:
    core = Http1(HeadParser(Limits()))
    core.receive_data(request(b"POST / HTTP/1.1", HOST + b"Content-Length: 5\r\n", b"ab"))
    assert core.next_event() == REQUEST
    assert (core.next_event(), core.content, core.remaining) == (DATA, b"ab", 3)
    assert core.next_event() == NEED_DATA
    core.receive_data(b"cde" + GET)
    assert (core.next_event(), core.content, core.remaining) == (DATA, b"cde", 0)
    assert core.state == COMPLETE


# -- Empty lines before the request line (RFC 9112 section 2.2) -----------------------------------------------------------


@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
def test_an_empty_line_before_each_request_is_ignored(feeding: Feeding) -> None:
    outcome = play(feeding((b"\r\n" + GET) * 20))
    assert outcome.status == 0
    assert len(outcome.messages) == 20


@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
def test_empty_lines_without_end_are_refused(feeding: Feeding) -> None:
    assert play(feeding(b"\r\n" * 1000)).status == 400


def test_empty_lines_are_bounded_however_they_come() -> None:
    for raw in (b"\r\n" * 4 + GET, b"\r\n" * 5 + GET):
        assert statuses(play(whole(raw))) == statuses(play(byte_by_byte(raw)))
        assert statuses(play(whole(raw))) == statuses(play([b"\r\n"] * (raw.count(b"\r\n") - 3) + [GET]))


# -- Memory and work are bounded ------------------------------------------------------------------------------------------

ENDLESS = {
    "a method": (b"", b"A"),
    "a target": (b"GET /", b"a"),
    "a query": (b"GET /?", b"%41"),
    "a field name": (b"GET / HTTP/1.1\r\n", b"X"),
    "a field value": (b"GET / HTTP/1.1\r\nX: ", b"x"),
    "white space in a value": (b"GET / HTTP/1.1\r\nX: ", b" \t"),
    "fields": (b"GET / HTTP/1.1\r\n", b"X: 1\r\n"),
    "empty lines": (b"", b"\r\n"),
    "a chunk extension": (chunks(b"1"), b";x"),
    "a chunk size": (chunks(b""), b"0"),
    "extensions of many chunks": (chunks(b""), b"1;" + b"e" * 1000 + b"\r\nx\r\n"),
    "a trailer": (chunks(b"0\r\nX: "), b"x"),
    "trailers": (chunks(b"0\r\n"), b"X: 1\r\n"),
}


@pytest.mark.parametrize(("beginning", "more"), ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("size", [1, 1000, 65536])
def test_what_never_ends_is_refused_and_kept_within_the_limits(beginning: bytes, more: bytes, size: int) -> None:
    """At the worst the core holds a head of full size and the one piece it was given last."""
    bound = Limits().request_line + Limits().fields_size + size * len(more) + len(beginning)
    if size == 1:
        # The last stretch byte by byte would take long from the start: begin close to the bound.
        beginning += more * (14000 // len(more)) if b"target" not in beginning else b""
    player = Player()
    player.feed(beginning)
    for _ in range(3 * (1 << 20) // (size * len(more)) + 2):
        player.feed(more * size)
        assert len(player.core.buffer) - player.core.position <= bound
        if player.outcome.status:
            assert player.core.buffer == b"", "what was refused is dropped"
            return
    raise AssertionError("never refused")


def test_a_body_is_never_kept() -> None:
    player = Player()
    player.feed(request(b"POST / HTTP/1.1", HOST + b"Content-Length: 100000000\r\n"))
    core = player.core
    for _ in range(100):
        core.receive_data(b"x" * 1000)
        while core.next_event() == DATA:
            pass
        assert not core.has_input()
        assert len(core.buffer) <= 1000


def test_a_head_byte_by_byte_is_not_quadratic() -> None:
    """64 KiB of fields in single bytes: seconds if each byte searched all before it again."""
    raw = request(fields=HOST + b"".join(b"X-%03d: %s\r\n" % (number, b"v" * 500) for number in range(100)))
    core = Http1(HeadParser(Limits()))
    for piece in byte_by_byte(raw):
        core.receive_data(piece)
        event = core.next_event()
    assert event == REQUEST


def test_random_bytes_never_raise_or_hang() -> None:
    dice = random.Random(1)
    for _ in range(300):
        pieces = [dice.randbytes(dice.randrange(1, 400)) for _ in range(5)]
        play(pieces)
