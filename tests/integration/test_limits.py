"""Limits: what is too large is refused at its exact bound, and so is one request too many (--limit-*)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.integration.support import (
    Client,
    Response,
    Server,
    Truncated,
    chunk_bytes,
    eventually,
    fresh_key,
    request_bytes,
    serve,
)

LINE = 200
FIELDS = 10
FIELDS_SIZE = 1000
BODY = 1000

LIMITS = (
    *("--limit-request-line", str(LINE)),
    *("--limit-request-fields", str(FIELDS)),
    *("--limit-request-fields-size", str(FIELDS_SIZE)),
    *("--limit-request-body", str(BODY)),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("limits:app", *LIMITS) as running:
        yield running


def expect_refusal(server: Server, client: Client, status: int) -> Response:
    """The refusal, the end of the connection, and no request begun."""
    response = client.read_response()
    assert (response.status, response.closes) == (status, True)
    client.expect_end(reset_allowed=True)
    return response


def began(server: Server) -> int:
    value: int = server.request("/began").value()
    return value


# -- the request line: what stands between its start and its CRLF, or with it; either count is one reading of the option


def line_of(size: int) -> str:
    """A target that makes the request line `size` bytes long without its CRLF."""
    return "/counted?" + "a" * (size - len("GET /counted? HTTP/1.1"))


def test_a_request_line_within_the_limit_is_served(client: Client) -> None:
    assert client.request(line_of(LINE - 2)).status == 200


@pytest.mark.parametrize("size", [LINE + 1, LINE + 100, 10 * LINE])
def test_a_request_line_over_the_limit_is_414(server: Server, client: Client, size: int) -> None:
    before = began(server)
    client.send(request_bytes(line_of(size)))
    expect_refusal(server, client, 414)
    assert began(server) == before


def test_a_request_line_over_the_limit_is_refused_before_it_ends(server: Server, client: Client) -> None:
    client.send(b"GET /" + b"a" * LINE)
    expect_refusal(server, client, 414)


# -- the fields


@pytest.mark.parametrize("count", [1, FIELDS - 1, FIELDS])
def test_fields_up_to_the_limit_are_served(client: Client, count: int) -> None:
    assert client.request("/counted", headers=["X: 1"] * (count - 1)).status == 200


@pytest.mark.parametrize("count", [FIELDS + 1, 3 * FIELDS])
def test_a_field_too_many_is_431(server: Server, client: Client, count: int) -> None:
    before = began(server)
    client.send(request_bytes("/counted", headers=["X: 1"] * (count - 1)))
    expect_refusal(server, client, 431)
    assert began(server) == before


def fields_of(size: int) -> list[str]:
    """Field lines that make `size` bytes with the Host line and every CRLF."""
    host = len("Host: localhost\r\n")
    return ["X: " + "a" * (size - host - len("X: \r\n"))]


def test_fields_of_the_size_limit_are_served(client: Client) -> None:
    assert client.request("/counted", headers=fields_of(FIELDS_SIZE)).status == 200


@pytest.mark.parametrize("size", [FIELDS_SIZE + 8, 10 * FIELDS_SIZE])
def test_fields_over_the_size_limit_are_431(server: Server, client: Client, size: int) -> None:
    # 8: the CRLFs of two lines and of the empty one are counted or not; beyond them there is nothing to discuss.
    before = began(server)
    client.send(request_bytes("/counted", headers=fields_of(size)))
    expect_refusal(server, client, 431)
    assert began(server) == before


def test_fields_over_the_size_limit_are_refused_before_they_end(server: Server, client: Client) -> None:
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * FIELDS_SIZE)
    expect_refusal(server, client, 431)


def test_limits_hold_for_every_request_of_a_connection(server: Server, client: Client) -> None:
    for _ in range(20):
        assert client.request("/counted", headers=fields_of(FIELDS_SIZE - 100)).status == 200
    client.send(request_bytes("/counted", headers=fields_of(2 * FIELDS_SIZE)))
    expect_refusal(server, client, 431)


# -- the body


def test_a_body_of_the_limit_is_served(client: Client) -> None:
    assert client.request("/counted", method="POST", body=b"a" * BODY).body == b"1000"
    assert client.request("/counted", method="POST", chunks=[b"a" * 400, b"a" * 600]).body == b"1000"


@pytest.mark.parametrize("size", [BODY + 1, 1 << 40])
def test_a_length_over_the_limit_is_413_before_any_of_it_is_sent(server: Server, client: Client, size: int) -> None:
    before = began(server)
    client.send(request_bytes("/counted", method="POST", headers=[f"Content-Length: {size}"]))
    expect_refusal(server, client, 413)
    assert began(server) == before


def test_a_length_over_the_limit_gets_no_100(server: Server, client: Client) -> None:
    client.send(
        request_bytes("/counted", method="POST", headers=["Expect: 100-continue", f"Content-Length: {BODY + 1}"])
    )
    assert expect_refusal(server, client, 413).interim == []


@pytest.mark.parametrize("pieces", [[BODY + 1], [BODY, 1], [1] * (BODY + 1)], ids=["one", "two", "many"])
def test_chunks_over_the_limit_are_413(server: Server, client: Client, pieces: list[int]) -> None:
    client.feed(
        [
            request_bytes("/counted", method="POST", headers=["Transfer-Encoding: chunked"]),
            b"".join(chunk_bytes(b"a" * size) for size in pieces),
        ]
    )
    expect_refusal(server, client, 413)


def test_chunks_over_the_limit_are_a_disconnect_for_the_application(server: Server, client: Client) -> None:
    key = fresh_key()
    headers = ["Transfer-Encoding: chunked", "Expect: 100-continue"]
    client.send(request_bytes(f"/watched?{key}", method="POST", headers=headers))
    assert client.read_head().status == 100, "the application has begun to read"
    client.send(chunk_bytes(b"a" * BODY) + chunk_bytes(b"a"))
    seen = server.read_note(key)
    assert seen[-1][0] == "http.disconnect"
    assert all(more for kind, _, more in seen if kind == "http.request"), "the body looked complete"
    assert sum(len(content) for kind, content, _ in seen if kind == "http.request") <= BODY


def test_chunks_over_the_limit_behind_a_started_response_cut_it(server: Server, client: Client) -> None:
    key = fresh_key()
    client.send(request_bytes(f"/answered_first?{key}", method="POST", headers=["Transfer-Encoding: chunked"]))
    assert client.read_head().status == 200
    client.feed([chunk_bytes(b"a" * (BODY + 1))])
    assert server.read_note(key) is None
    assert not client.read_to_end().endswith(b"0\r\n\r\n"), "looks like a complete response"


def test_without_the_option_bodies_have_no_limit() -> None:
    with serve("limits:app") as server, server.connect() as client:
        client.send(request_bytes("/counted", method="POST", headers=["Content-Length: 50000000"]))
        client.feed([b"a" * 1_000_000] * 50)
        assert client.read_response().body == b"50000000"


# -- concurrency


def test_requests_over_the_concurrency_limit_are_503() -> None:
    with serve("limits:app", "--limit-concurrency", "4") as server:
        key = fresh_key()
        clients = [server.connect() for _ in range(10)]
        try:
            for client in clients:
                client.send(request_bytes(f"/held_while_connected?{key}"))
            eventually(lambda: sum(client.readable() for client in clients) >= 6, "all but four to be refused")
            refused = [client for client in clients if client.readable()]
            assert len(refused) < len(clients), "none is served"
            for client in refused:
                response = client.read_response()
                assert (response.status, response.closes) == (503, True)
                client.expect_end()
            held = [client for client in clients if client not in refused]
            # One leaves, so that there is room for the note that lets the others go.
            held.pop().close()
            eventually(lambda: server.request(f"/board?{key}-go", method="POST").status == 200, "room for one more")
            for client in held:
                assert client.read_response().body == b"held"
        finally:
            for client in clients:
                client.close()
        eventually(lambda: server.request("/began").status == 200, "room again")


def test_the_concurrency_limit_never_reaches_the_application() -> None:
    with serve("limits:app", "--limit-concurrency", "2") as server:
        key = fresh_key()
        clients = [server.connect() for _ in range(8)]
        for client in clients:
            client.send(request_bytes(f"/held_while_connected?{key}"))
        eventually(lambda: sum(client.readable() for client in clients) >= 6, "all but two to be refused")
        refused = [client for client in clients if client.readable()]
        assert {client.read_response().status for client in refused} == {503}
        for client in clients:
            client.close()
        eventually(lambda: server.request("/board?x", method="POST").status == 200, "room again")
        with server.connect() as client:
            eventually(lambda: client.request("/began").status == 200, "room for one more")
            assert client.request("/began").value() == 8 - len(refused)


# -- requests in a worker's life


def test_a_server_without_a_master_ends_after_its_requests() -> None:
    with serve("limits:app", "--limit-max-requests", "5") as server:
        for _ in range(5):
            assert server.request("/counted").status == 200
        assert server.wait() == 0


def test_requests_in_flight_survive_the_last_one() -> None:
    with serve("limits:app", "--limit-max-requests", "5") as server:
        key = fresh_key()
        waiting = server.connect()
        with waiting:
            waiting.send(request_bytes(f"/held?{key}"))
            with server.connect() as client:
                for number in range(1, 5):
                    response = client.request(f"/board?{key}-go" if number == 4 else "/counted", method="POST")
                    assert response.status == 200
                assert waiting.read_response().body == b"held"
        assert server.wait() == 0


def test_a_worker_is_replaced_after_its_requests_and_nobody_notices() -> None:
    with serve("limits:app", "--limit-max-requests", "10", workers=1) as server:
        pids = set()

        def a_third_worker_answers() -> bool:
            # The old worker serves until its successor is ready, so it is time, not requests, that shows the change.
            for _ in range(10):
                response = server.request("/resources")
                assert response.status == 200
                pids.add(response.value()["pid"])
            return len(pids) >= 3

        eventually(a_third_worker_answers, "a worker to be replaced, twice")


def test_a_kept_connection_is_told_to_close_when_its_worker_is_replaced() -> None:
    with serve("limits:app", "--limit-max-requests", "10", workers=1) as server:
        pids = set()

        def a_third_worker_answers() -> bool:
            with server.connect() as client:
                for _ in range(50):
                    try:
                        response = client.request("/resources")
                    except (Truncated, OSError):
                        # An idle connection may be closed at any time (RFC 9112 9.5), even as a request is on its way.
                        break
                    pids.add(response.value()["pid"])
                    if response.closes:
                        client.expect_end()
                        break
            return len(pids) >= 3

        eventually(a_third_worker_answers, "a worker to be replaced, twice")


def test_a_server_with_jitter_ends_too_and_says_why() -> None:
    with serve("limits:app", "--limit-max-requests", "3", "--limit-max-requests-jitter", "4", workers=0) as server:
        served = 0
        while server.process.poll() is None and served < 1000:
            try:
                served += server.request("/counted").status == 200
            except (Truncated, OSError):
                break
        assert server.wait() == 0
        # Those who were on their way while it stopped are served, too.
        assert served >= 3, server.output.text()
        assert re.search(r"(?i)max.?requests|limit", server.output.text()), "the log does not say why it ended"
