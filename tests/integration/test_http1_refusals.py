"""Requests that must not be served: the right status, `Connection: close`, nothing after it, nothing for the application."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.corpus.accepted import ACCEPTED
from tests.corpus.feeding import Feeding, cuts, feedings
from tests.corpus.refused import REFUSED, Refused
from tests.integration.apps.corpus import COUNTS
from tests.integration.support import DEADLINE, MIB, Client, Server, Truncated, chunk_bytes, request_bytes, serve

SMALL = [case for case in REFUSED if len(case.raw) < 1000]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("corpus:app") as running:
        yield running


def counts(server: Server) -> dict[str, int]:
    value: dict[str, int] = server.request(COUNTS).value()
    return value


def check_refused(server: Server, case: Refused, pieces: list[bytes]) -> None:
    before = counts(server)
    with server.connect() as client:
        client.feed(pieces)
        for _ in range(case.before):
            assert client.read_response().status == 200
        response = client.read_response()
        assert response.status in case.statuses, f"{case.rule}: {response}"
        assert response.closes, f"a refusal must say that it closes: {response}"
        # A piece sent after the refusal may meet a closed socket and come back as a reset.
        client.expect_end(reset_allowed=len(pieces) > 1)
    after = counts(server)
    assert after["whole"] - before["whole"] == case.before, "the application saw a complete request"
    if not case.in_body:
        assert after["began"] - before["began"] == case.before, "the application was called"


@pytest.mark.parametrize(
    ("case", "feeding"),
    [pytest.param(case, feed, id=f"{case}-{feed.__name__}") for case in REFUSED for feed in feedings(case.raw)],
)
def test_a_bad_request_is_refused(server: Server, case: Refused, feeding: Feeding) -> None:
    check_refused(server, case, feeding(case.raw))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_bad_request_may_be_cut_anywhere(server: Server, data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(SMALL))
    check_refused(server, case, data.draw(cuts(case.raw)))


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_bad_request_behind_a_good_one_is_refused_after_its_answer(server: Server, case: Refused) -> None:
    good = request_bytes("/fine")
    behind = Refused(case.name, good + case.raw, case.statuses, case.rule, case.in_body, case.before + 1)
    check_refused(server, behind, [behind.raw])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A request of the corpus with a few bytes deleted, replaced, inserted or doubled."""
    raw = draw(
        st.sampled_from([*(case.raw for case in SMALL), *(case.raw for case in ACCEPTED if len(case.raw) < 1000)])
    )
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        cut = draw(st.integers(0, 3))
        raw = raw[:at] + draw(st.one_of(st.binary(max_size=3), st.sampled_from(SPICE))) + raw[at + cut :]
    return raw


SPICE = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b"\t",
    b":",
    b"0",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged())
def test_a_damaged_request_is_answered_or_refused_and_breaks_nothing(server: Server, raw: bytes) -> None:
    with server.connect() as client:
        client.feed([raw])
        client.half_close()
        # Whatever was left of the requests in it: well-formed answers, and then the end.
        while client.readable(DEADLINE) and not client.ended:
            try:
                response = client.read_response("HEAD" if raw.lstrip().startswith(b"HEAD") else "GET")
            except Truncated as cut:
                assert cut.response is None, f"an answer broke off: {cut.response}"
                break
            assert response.status in (200, 400, 405, 408, 413, 414, 417, 431, 501, 505)
    assert server.process.poll() is None


def test_a_refusal_is_not_lost_to_a_client_that_goes_on_sending(client: Client) -> None:
    # RFC 9112 9.6: closing with unread bytes would reset the connection and may take the answer with it.
    client.feed([b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", *([b"x" * 65536] * 16)])
    assert client.read_response().status == 400


def test_a_refusal_is_a_complete_response_of_its_own(client: Client) -> None:
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    response = client.read_response()
    assert (response.version, response.status, response.reason) == ("1.1", 400, "Bad Request")
    assert response.framing == "length"
    assert response.get(b"date") is not None
    client.expect_end()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"HEAD / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"HEAD / HTTP/1.1\r\n\r\n", 400),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\nX: 1\n", 400),
        (b"HEAD /" + b"x" * 20_000, 414),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 128 + b"\r\n", 431),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"HEAD / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (
            b"HEAD / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            400,
        ),
    ],
)
def test_the_answer_to_a_refused_head_request_has_no_content(client: Client, request_bytes: bytes, status: int) -> None:
    """RFC 9110 section 9.3.2."""
    client.send(request_bytes)
    response = client.read_response("HEAD")
    assert (response.status, response.closes) == (status, True)
    assert client.read_to_end() == b""


def test_a_refused_request_is_not_logged_as_a_crash(server: Server, client: Client) -> None:
    client.send(b"GET / HTTP/1.1\r\nX : 1\r\n\r\n")
    assert client.read_response().status == 400
    assert "Traceback" not in server.output.text()


def endless(server: Server, opening: bytes, piece: bytes, statuses: tuple[int, ...]) -> None:
    """Feed an opening, then a piece that repeats for ever: refused within what two kernels buffer, and never seen whole."""
    before = counts(server)["whole"]
    with server.connect() as client:
        client.feed([opening])
        assert client.flood(piece, 64 * MIB, until_readable=True) < 4 * MIB
        # Once the server has enough of it, a reset may overtake its answer.
        with contextlib.suppress(Truncated):
            response = client.read_response()
            assert response.status in statuses
            assert response.closes
    assert counts(server)["whole"] == before


CHUNKED = request_bytes("/", method="POST", headers=["Transfer-Encoding: chunked"])


@pytest.mark.parametrize(
    ("opening", "piece", "statuses"),
    [
        pytest.param(b"", b"A" * 1000, (400, 414, 501), id="method"),
        pytest.param(b"GET /", b"a" * 1000, (414,), id="target"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: 1\r\n" * 100, (431,), id="fields"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"a" * 1000, (431,), id="value"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n", b"X" * 1000, (431,), id="name"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX:", b" " * 1000, (431,), id="white space"),
        pytest.param(b"", b"\r\n" * 500, (400, 414, 431), id="empty lines"),
        pytest.param(CHUNKED, b"0" * 1000, (400, 413, 431), id="chunk size"),
        pytest.param(CHUNKED + b"1;", b"a" * 1000, (400, 413, 431), id="chunk extension"),
        pytest.param(CHUNKED + b"0\r\nX: ", b"a" * 1000, (400, 413, 431), id="trailer value"),
        pytest.param(CHUNKED + b"0\r\n", b"X: 1\r\n" * 100, (400, 413, 431), id="trailer fields"),
    ],
)
def test_what_never_ends_is_cut_off(server: Server, opening: bytes, piece: bytes, statuses: tuple[int, ...]) -> None:
    endless(server, opening, piece, statuses)


def test_extensions_on_many_small_chunks_are_bounded_together(server: Server) -> None:
    # Each chunk stays small; what is not content still adds up to far more than what is (CVE-2023-39326 in another server).
    endless(server, CHUNKED, b"1;" + b"a" * 4000 + b"\r\nx\r\n", (400, 413, 431))


def test_a_body_that_breaks_off_never_looks_complete(server: Server) -> None:
    before = counts(server)
    for opening in (
        request_bytes("/", method="POST", headers=["Content-Length: 10"]) + b"12345",
        CHUNKED + chunk_bytes(b"12345"),
        CHUNKED + b"a\r\n12345",
        CHUNKED + chunk_bytes(b"12345") + b"0\r\n",
        CHUNKED + chunk_bytes(b"12345") + b"0\r\nX: 1\r\n",
    ):
        with server.connect() as client:
            client.send(opening)
            client.half_close()
            rest = client.read_to_end()
            assert b" 200 " not in rest[:16]
    assert counts(server)["whole"] == before["whole"]


def test_a_request_that_breaks_off_in_its_head_is_never_served(server: Server) -> None:
    before = counts(server)
    raw = request_bytes("/cut", headers=["X: 1"])
    for end in range(len(raw)):
        with server.connect() as client:
            client.send(raw[:end])
            client.half_close()
            assert b" 200 " not in client.read_to_end()[:16]
    assert counts(server) == before
