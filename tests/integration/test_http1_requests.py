"""Requests that are right: content, persistence, pipelining, expectations, and what the application is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.corpus.accepted import ACCEPTED, Accepted
from tests.corpus.feeding import Feeding, cuts, feedings
from tests.integration.support import Client, Server, fresh_key, request_bytes, serve


@pytest.fixture(scope="module")
def corpus() -> Iterator[Server]:
    with serve("corpus:app") as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("http1:app") as running:
        yield running


# -- the corpus


def check_accepted(corpus: Server, case: Accepted, pieces: list[bytes]) -> None:
    with corpus.connect() as client:
        client.feed(pieces)
        for expected in case.requests:
            assert client.read_response().value() == asdict(expected)
        client.half_close()
        client.expect_end()


@pytest.mark.parametrize(
    ("case", "feeding"),
    [pytest.param(case, feed, id=f"{case}-{feed.__name__}") for case in ACCEPTED for feed in feedings(case.raw)],
)
def test_a_good_request_reaches_the_application_as_it_was_sent(
    corpus: Server, case: Accepted, feeding: Feeding
) -> None:
    check_accepted(corpus, case, feeding(case.raw))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_good_request_may_be_cut_anywhere(corpus: Server, data: st.DataObject) -> None:
    case = data.draw(st.sampled_from([case for case in ACCEPTED if len(case.raw) < 1000]))
    check_accepted(corpus, case, data.draw(cuts(case.raw)))


# -- persistence (RFC 9112 section 9.3)


def test_a_connection_serves_many_requests(client: Client) -> None:
    for number in range(20):
        response = client.request("/echo", method="POST", body=b"%d" % number)
        assert (response.status, response.body) == (200, b"%d" % number)
        assert not response.closes


@pytest.mark.parametrize("value", ["close", "Close", "CLOSE", "foo, close", "close , foo", "keep-alive, close"])
def test_close_ends_the_connection_after_the_response(client: Client, value: str) -> None:
    response = client.request("/hello", headers=[f"Connection: {value}"])
    assert response.body == b"hello"
    assert response.closes, "RFC 9112 9.6: a server that closes SHOULD say so"
    client.expect_end()


def test_close_is_found_on_a_second_connection_line(client: Client) -> None:
    response = client.request("/hello", headers=["Connection: foo", "Connection: close"])
    assert response.closes
    client.expect_end()


@pytest.mark.parametrize("value", ["closed", "foo", "x-close", "keep-alive", "clos", "close-not"])
def test_only_the_option_close_closes(client: Client, value: str) -> None:
    assert not client.request("/hello", headers=[f"Connection: {value}"]).closes
    assert client.request("/hello").status == 200


def test_nothing_behind_a_request_that_closes_is_served(server: Server, client: Client) -> None:
    key = fresh_key()
    client.send(request_bytes("/hello", headers=["Connection: close"]) + request_bytes(f"/tell?{key}"))
    assert client.read_response().closes
    client.expect_end(reset_allowed=True)
    # Had the second request been served, the note would be there and would not say "later".
    server.request(f"/post_later?{key}")
    assert server.read_note(key) == "later"


def test_http10_closes_by_default(client: Client) -> None:
    response = client.request("/hello", version="1.0")
    assert response.body == b"hello"
    assert b"keep-alive" not in response.options
    client.expect_end()


@pytest.mark.parametrize("value", ["keep-alive", "Keep-Alive", "foo, keep-alive"])
def test_http10_is_kept_alive_when_it_asks(client: Client, value: str) -> None:
    for _ in range(3):
        response = client.request("/hello", version="1.0", headers=[f"Connection: {value}"])
        assert response.framing == "length"
        assert b"keep-alive" in response.options, "RFC 9112 9.3: a 1.0 client cannot know otherwise"
    assert client.request("/hello", version="1.0").body == b"hello"
    client.expect_end()


def test_http10_that_asks_to_close_and_to_stay_is_closed(client: Client) -> None:
    assert client.request("/hello", version="1.0", headers=["Connection: keep-alive, close"]).body == b"hello"
    client.expect_end()


def test_http10_response_without_a_length_ends_with_the_connection(client: Client) -> None:
    response = client.request("/stream", version="1.0", headers=["Connection: keep-alive"])
    assert response.framing == "close"
    assert response.body == b"".join(b"part %d;" % number for number in range(5))
    assert b"keep-alive" not in response.options
    assert client.ended == "closed"


def test_http10_and_http11_may_share_a_connection(client: Client) -> None:
    assert client.request("/hello").body == b"hello"
    assert client.request("/hello", version="1.0", headers=["Connection: keep-alive"]).body == b"hello"
    assert client.request("/hello").body == b"hello"


# -- pipelining (RFC 9112 section 9.3.2)


def test_a_thousand_pipelined_requests_are_answered_in_order(client: Client) -> None:
    client.send(b"".join(request_bytes("/echo", method="POST", body=b"%d" % number) for number in range(1000)))
    for number in range(1000):
        assert client.read_response().body == b"%d" % number


def test_a_slow_request_holds_the_pipelined_ones_behind_it(server: Server, client: Client) -> None:
    key = fresh_key()
    client.send(request_bytes(f"/wait?{key}") + request_bytes("/echo", method="POST", body=b"second") * 3)
    assert server.read_note(key) == "waiting"
    assert server.request("/hello").body == b"hello"
    assert not client.readable()
    server.post_note(f"{key}-go")
    assert client.read_response().body == b"waited"
    for _ in range(3):
        assert client.read_response().body == b"second"


def test_pipelined_streams_keep_their_order_and_framing(client: Client) -> None:
    client.send(request_bytes("/stream") * 50)
    for _ in range(50):
        response = client.read_response()
        assert response.framing == "chunked"
        assert response.body == b"".join(b"part %d;" % number for number in range(5))


def test_a_pipeline_of_every_kind_of_body_stays_in_step(client: Client) -> None:
    requests = [
        request_bytes("/echo", method="POST", body=b"by length"),
        request_bytes("/echo", method="POST", chunks=[b"by ", b"chunks"]),
        request_bytes("/echo", method="POST", body=b""),
        request_bytes("/echo", method="POST", chunks=[]),
        request_bytes("/hello"),
        request_bytes("/hello", method="HEAD"),
        request_bytes("/hello"),
    ]
    client.send(b"".join(requests))
    bodies = [client.read_response(method).body for method in ("POST", "POST", "POST", "POST", "GET", "HEAD", "GET")]
    assert bodies == [b"by length", b"by chunks", b"", b"", b"hello", b"", b"hello"]


# -- content


@pytest.mark.parametrize("size", [0, 1, 1000, 65_535, 65_536, 65_537, 1 << 20, 5_000_000])
def test_a_body_of_any_size_arrives_whole(client: Client, size: int) -> None:
    content = bytes(number % 251 for number in range(1000)) * (size // 1000 + 1)
    content = content[:size]
    assert client.request("/echo", method="POST", body=content).body == content
    pieces = [content[at : at + 7777] for at in range(0, size, 7777)]
    assert client.request("/echo", method="POST", chunks=pieces).body == content


def test_ten_thousand_chunks_of_one_byte_arrive_whole(client: Client) -> None:
    content = b"0123456789" * 1000
    assert client.request("/echo", method="POST", chunks=[bytes([byte]) for byte in content]).body == content


def test_a_body_arrives_while_it_is_sent(server: Server, client: Client) -> None:
    key = fresh_key()
    client.send(request_bytes(f"/report_pieces?{key}", method="POST", headers=["Content-Length: 6"]) + b"abc")
    assert server.read_note(key) == b"abc"
    client.send(b"def")
    assert client.read_response().body == b"abcdef"


def test_trailers_are_not_merged_into_the_headers(client: Client) -> None:
    client.send(
        b"POST /headers HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n"
    )
    assert client.read_response().value() == [
        (b"host", b"a"),
        (b"trailer", b"X-Sum"),
        (b"transfer-encoding", b"chunked"),
    ]
    assert client.request("/headers").value() == [(b"host", b"localhost")]


def test_the_next_request_follows_one_whose_body_nobody_read(client: Client) -> None:
    for size in (0, 1, 100, 5000, 60_000):
        assert client.request("/hello", method="POST", body=b"x" * size).body == b"hello"
        assert client.request("/hello", method="POST", chunks=[b"x" * size]).body == b"hello"
    assert client.request("/echo", method="POST", body=b"in step").body == b"in step"


def test_a_body_nobody_reads_may_come_after_the_response(client: Client) -> None:
    client.send(request_bytes("/hello", method="POST", headers=["Content-Length: 12"]))
    response = client.read_response()
    assert response.body == b"hello"
    client.feed([b"GET /hello H", request_bytes("/echo", method="POST", body=b"in step")])
    if response.closes:
        client.expect_end(reset_allowed=True)
    else:
        assert client.read_response().body == b"in step"


def test_a_half_closed_client_still_gets_its_answer(client: Client) -> None:
    client.send(request_bytes("/hello"))
    client.half_close()
    assert client.read_response().body == b"hello"
    client.expect_end()


def test_a_half_closed_client_still_gets_its_body_echoed(client: Client) -> None:
    client.send(request_bytes("/echo", method="POST", body=b"x" * 100_000))
    client.half_close()
    assert client.read_response().body == b"x" * 100_000
    client.expect_end()


def test_a_half_closed_client_gets_every_pipelined_answer(client: Client) -> None:
    client.send(request_bytes("/hello") * 10)
    client.half_close()
    for _ in range(10):
        assert client.read_response().body == b"hello"
    client.expect_end()


# -- Expect: 100-continue (RFC 9110 section 10.1.1)

EXPECT = ["Expect: 100-continue"]


def test_100_is_sent_when_the_application_first_receives(server: Server, client: Client) -> None:
    key = fresh_key()
    client.send(request_bytes(f"/receive_later?{key}", method="POST", headers=[*EXPECT, "Content-Length: 5"]))
    assert server.read_note(key) == "not yet"
    assert server.request("/hello").status == 200
    assert not client.readable(), "answered before the application received"
    server.post_note(f"{key}-go")
    assert client.read_head().status == 100
    client.send(b"hello")
    response = client.read_response()
    assert (response.body, response.interim) == (b"hello", [])
    assert client.request("/hello").body == b"hello"


def test_100_is_sent_once_however_often_the_application_receives(client: Client) -> None:
    client.send(request_bytes("/echo", method="POST", headers=[*EXPECT, "Transfer-Encoding: chunked"]))
    assert client.read_head().status == 100
    for piece in (b"1\r\na\r\n", b"1\r\nb\r\n", b"0\r\n\r\n"):
        client.send(piece)
    response = client.read_response()
    assert (response.body, response.interim) == (b"ab", [])


@pytest.mark.parametrize("value", ["100-continue", "100-Continue", "100-CONTINUE"])
def test_the_expectation_is_case_insensitive(client: Client, value: str) -> None:
    client.send(request_bytes("/echo", method="POST", headers=[f"Expect: {value}", "Content-Length: 2"]))
    assert client.read_head().status == 100
    client.send(b"hi")
    assert client.read_response().body == b"hi"


def test_100_is_not_sent_when_the_application_never_receives(client: Client) -> None:
    client.send(request_bytes("/hello", method="POST", headers=[*EXPECT, "Content-Length: 5"]))
    response = client.read_response()
    assert (response.body, response.interim) == (b"hello", [])
    # The client may now send the body it announced, or not: only closing is right for both.
    if response.closes:
        client.expect_end(reset_allowed=True)
    else:
        client.send(b"hello" + request_bytes("/echo", method="POST", body=b"in step"))
        assert client.read_response().body == b"in step"


def test_100_is_not_sent_to_http10(server: Server, client: Client) -> None:
    key = fresh_key()
    client.send(
        request_bytes(f"/report_pieces?{key}", method="POST", version="1.0", headers=[*EXPECT, "Content-Length: 6"])
        + b"abc"
    )
    assert server.read_note(key) == b"abc"
    assert not client.readable(), "RFC 9110 15.2: no 1xx to a 1.0 client"
    client.send(b"def")
    response = client.read_response()
    assert (response.body, response.interim) == (b"abcdef", [])


def test_100_is_not_sent_when_there_is_no_body_to_wait_for(client: Client) -> None:
    response = client.request("/echo", headers=EXPECT)
    assert (response.body, response.interim) == (b"", [])
    assert client.request("/hello").body == b"hello"


def test_100_comes_after_the_responses_before_it(server: Server, client: Client) -> None:
    key = fresh_key()
    client.send(
        request_bytes(f"/wait?{key}") + request_bytes("/echo", method="POST", headers=[*EXPECT, "Content-Length: 2"])
    )
    assert server.read_note(key) == "waiting"
    assert not client.readable()
    server.post_note(f"{key}-go")
    first = client.read_response()
    assert (first.body, first.interim) == (b"waited", [])
    assert client.read_head().status == 100
    client.send(b"hi")
    assert client.read_response().body == b"hi"
