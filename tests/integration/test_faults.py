"""Faults on both sides: applications that fail, clients that vanish at any byte, descriptors that run out, workers that die."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.apps.faults import SECRET
from tests.integration.support import (
    MIB,
    Client,
    Response,
    Server,
    Truncated,
    eventually,
    request_bytes,
    serve,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("faults:app", "--no-access-log") as running:
        yield running


def in_step(client: Client) -> bool:
    return client.request("/hello").body == b"hello"


def outcome(client: Client) -> Response | Truncated:
    """The response if it is complete, else how it broke off."""
    try:
        return client.read_response()
    except Truncated as cut:
        return cut


# -- applications that raise

BEFORE = ["raises_at_once", "raises_after_receive", "raises_a_group", "raises_cancelled", "cancels_itself"]
AFTER = [
    "raises_after_start_and_a_pause",
    "raises_after_part",
    "raises_after_part_and_a_pause",
    "raises_after_part_of_length",
    "raises_after_a_megabyte",
    "raises_before_the_last_piece",
]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("scenario", BEFORE)
def test_raising_before_the_response_is_a_500_and_a_traceback(
    server: Server, client: Client, scenario: str, version: str
) -> None:
    response = client.request(f"/{scenario}", method="POST", body=b"content", version=version)
    assert (response.status, response.reason) == (500, "Internal Server Error")
    assert SECRET.encode() not in response.body
    if scenario not in ("raises_cancelled", "cancels_itself"):
        server.expect_error(f"in {scenario}")
    server.permit_error(f"in {scenario}")
    server.permit_error("in fail\n")  # the inner traceback of the group
    if response.closes or version == "1.0":
        client.expect_end()
    else:
        assert in_step(client)


def test_an_application_that_exits_is_a_500_and_the_server_stays() -> None:
    with serve("faults:app") as server:
        assert server.request("/exits").status == 500
        server.expect_error("in exits")
        assert server.request("/hello").body == b"hello"


def test_a_500_to_head_has_no_content(server: Server, client: Client) -> None:
    response = client.request("/raises_at_once", method="HEAD")
    assert response.status == 500
    assert client.read_to_end() == b"" if response.closes else in_step(client)
    server.expect_error("in raises_at_once")


@pytest.mark.parametrize("scenario", AFTER)
def test_raising_after_the_start_never_leaves_a_complete_response(
    server: Server, client: Client, scenario: str
) -> None:
    client.send(request_bytes(f"/{scenario}"))
    cut = outcome(client)
    assert isinstance(cut, Truncated), cut
    server.expect_error(f"in {scenario}")


@pytest.mark.parametrize("scenario", AFTER)
def test_raising_after_the_start_is_a_reset_where_the_close_is_the_end(
    server: Server, client: Client, scenario: str
) -> None:
    # A 1.0 response without a length ends with the connection: only a reset can say that it did not end well.
    client.send(request_bytes(f"/{scenario}", version="1.0"))
    cut = outcome(client)
    assert isinstance(cut, Truncated), cut
    assert cut.reset or (cut.response is not None and cut.response.framing == "length")
    server.expect_error(f"in {scenario}")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_raising_right_after_the_start_is_a_500_or_broken(server: Server, client: Client, version: str) -> None:
    # www 2.5: the server need not send the head before there is a body, so it may still replace it.
    client.send(request_bytes("/raises_after_start", version=version))
    result = outcome(client)
    assert isinstance(result, Truncated) or result.status == 500, result
    server.expect_error("in raises_after_start")


def test_raising_after_completion_changes_nothing_for_the_client(server: Server, client: Client) -> None:
    assert client.request("/raises_after_completion").body == b"hello"
    server.expect_error("in raises_after_completion")
    assert in_step(client)


def test_pipelined_answers_before_a_failure_are_delivered(server: Server, client: Client) -> None:
    client.send(request_bytes("/hello") * 3 + request_bytes("/raises_after_part") + request_bytes("/hello"))
    for _ in range(3):
        assert client.read_response().body == b"hello"
    assert isinstance(outcome(client), Truncated)
    server.expect_error("in raises_after_part")


# -- applications that return early


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_returning_without_a_response_is_a_500(server: Server, client: Client, version: str) -> None:
    response = client.request("/returns_at_once", method="POST", body=b"content", version=version)
    assert response.status == 500
    server.output.wait_for(r"(?i)ERROR.*(return|complet)")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("scenario", ["returns_after_start", "returns_after_part", "returns_after_part_of_length"])
def test_returning_in_the_middle_never_leaves_a_complete_response(
    server: Server, client: Client, scenario: str, version: str
) -> None:
    client.send(request_bytes(f"/{scenario}", version=version))
    result = outcome(client)
    assert isinstance(result, Truncated) or (scenario == "returns_after_start" and result.status == 500), result


# -- lengths that disagree with the content


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("scenario", ["sends_too_little", "sends_too_little_in_pieces", "sends_nothing_of_its_length"])
def test_less_content_than_promised_is_visible(server: Server, client: Client, scenario: str, version: str) -> None:
    client.send(request_bytes(f"/{scenario}", version=version))
    result = outcome(client)
    assert isinstance(result, Truncated) or result.status == 500, result
    server.permit_error(f"in {scenario}")
    server.output.wait_for(r"(?i)ERROR|Traceback")


@pytest.mark.parametrize("scenario", ["sends_too_much", "sends_too_much_in_pieces", "sends_more_than_nothing"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_more_content_than_promised_is_visible_and_never_sent(
    server: Server, client: Client, scenario: str, version: str
) -> None:
    client.send(request_bytes(f"/{scenario}", version=version) + request_bytes("/hello", version=version))
    result = outcome(client)
    assert isinstance(result, Truncated) or result.status == 500, result
    server.expect_error(f"in {scenario}")
    if isinstance(result, Response) and not result.closes and version == "1.1":
        assert client.read_response().body == b"hello"
    else:
        client.expect_end(reset_allowed=True)


@pytest.mark.parametrize("value", ["-5", "+5", "five", "5.0", "5 5", "5,5", "0x5", ""])
def test_a_length_that_is_no_number_never_reaches_the_client(server: Server, client: Client, value: str) -> None:
    client.send(request_bytes(f"/has_a_bad_length?{value}".replace(" ", "%20")))
    result = outcome(client)
    assert isinstance(result, Truncated) or result.status == 500, result
    server.expect_error("in has_a_bad_length")


@pytest.mark.parametrize("value", ["5", "6"])
def test_two_lengths_never_reach_the_client(server: Server, client: Client, value: str) -> None:
    client.send(request_bytes(f"/has_two_lengths?{value}"))
    result = outcome(client)
    server.permit_error("in has_two_lengths")
    if isinstance(result, Response) and result.status == 200:
        assert value == "5"
        assert result.all(b"content-length") == [b"5"]
        assert in_step(client)


def test_the_length_of_content_that_is_not_sent_is_no_error(server: Server, client: Client) -> None:
    response = client.request("/has_the_length_of_another_method", method="HEAD")
    assert response.get(b"content-length") == b"10"
    assert in_step(client)
    assert client.request("/not_modified").status == 304
    assert in_step(client)


# -- clients that vanish

UPLOAD = request_bytes("/echo", method="POST", body=b"some content to be echoed")
CHUNKED = request_bytes("/echo", method="POST", chunks=[b"some", b"content"])
PIPELINE = request_bytes("/hello") + UPLOAD + request_bytes("/stream") + request_bytes("/hello")
WAITING = request_bytes("/wait_for_disconnect")
CONTINUE = request_bytes("/echo", method="POST", headers=["Expect: 100-continue", "Content-Length: 5"])


@pytest.fixture(scope="module")
def idle(server: Server) -> dict[str, int]:
    """What the server holds when nothing happens."""
    assert server.request("/hello").status == 200
    return server.resources()


def nothing_is_left_behind(server: Server, before: dict[str, int], rss: int = 4 * MIB) -> None:
    after = server.resources(before)
    assert after["fds"] <= before["fds"], "descriptors are left"
    assert after["tasks"] <= before["tasks"], "tasks are left"
    assert after["rss"] - before["rss"] <= rss, f"{(after['rss'] - before['rss']) / MIB:.1f} MiB are left"


def vanish(server: Server, parts: list[bytes], *, reset: bool) -> None:
    """One client for each part: it sends that much and is gone once the server has seen it."""
    clients = []
    for part in parts:
        clients.append(server.connect())
        clients[-1].send(part)
    assert server.request("/hello").status == 200
    for client in clients:
        client.reset() if reset else client.close()


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "close"])
def test_clients_that_vanish_at_any_byte_leave_nothing_behind(
    server: Server, idle: dict[str, int], reset: bool
) -> None:
    parts = [raw[:end] for raw in (UPLOAD, CHUNKED, PIPELINE, WAITING, CONTINUE) for end in range(len(raw) + 1)]

    def everywhere() -> None:
        for start in range(0, len(parts), 50):
            vanish(server, parts[start : start + 50], reset=reset)

    everywhere()
    before = server.resources(idle)
    for _ in range(4):
        everywhere()
    nothing_is_left_behind(server, before)


def test_clients_that_vanish_before_they_are_accepted_leave_nothing_behind(
    server: Server, idle: dict[str, int]
) -> None:
    def round_of(count: int) -> None:
        for number in range(count):
            client = server.connect()
            client.send(UPLOAD[: number % len(UPLOAD)])
            client.reset()

    round_of(200)
    before = server.resources(idle)
    round_of(2000)
    nothing_is_left_behind(server, before)


def test_clients_that_vanish_at_any_byte_of_the_response_leave_nothing_behind(
    server: Server, idle: dict[str, int]
) -> None:
    request = request_bytes("/stream", headers=["Connection: close"])
    with server.connect() as client:
        client.send(request)
        size = len(client.read_to_end())

    def round_of(count: int) -> None:
        for number in range(count):
            client = server.connect()
            client.send(request)
            client.read(number * 13 % size)
            client.reset()

    round_of(100)
    before = server.resources(idle)
    round_of(1000)
    nothing_is_left_behind(server, before)


def test_uploads_that_vanish_leave_nothing_behind(server: Server, idle: dict[str, int]) -> None:
    head = request_bytes("/echo", method="POST", headers=["Content-Length: 10000000"])

    def round_of(count: int) -> None:
        for start in range(0, count, 20):
            vanish(server, [head + b"x" * (number * 999 % 100_000) for number in range(start, start + 20)], reset=True)

    round_of(100)
    before = server.resources(idle)
    round_of(500)
    nothing_is_left_behind(server, before)


def test_a_crowd_that_vanishes_at_once_leaves_nothing_behind(server: Server, idle: dict[str, int]) -> None:
    kinds = (b"", b"GET / HT", WAITING, request_bytes("/hello"), CHUNKED[:-9])
    crowd = [kinds[number % 5] for number in range(400)]
    vanish(server, crowd, reset=True)
    before = server.resources(idle)
    for _ in range(3):
        vanish(server, crowd, reset=True)
    nothing_is_left_behind(server, before)


def test_the_server_still_serves_after_all_that(server: Server, client: Client) -> None:
    assert in_step(client)


# -- descriptors that run out


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("workers", [0, 1])
def test_accepting_pauses_without_descriptors_and_recovers(workers: int) -> None:
    with serve("faults:app", "--no-access-log", workers=workers, open_files=64) as server:
        pid = server.resources()["pid"]
        waiting = [server.connect() for _ in range(150)]
        for client in waiting:
            client.send(request_bytes("/hello"))
        server.output.wait_for("(?i)too many open files|EMFILE|descriptor")
        eventually(lambda: any(client.readable() for client in waiting), "the first connections to be served")
        first = next(client for client in waiting if client.readable())
        assert first.read_response().body == b"hello"
        # Once it has answered again it has read all it could accept.
        assert in_step(first)
        others = [client for client in waiting if client is not first and client.readable()]
        assert all(client.read_response().body == b"hello" for client in others)
        served = [first, *others]
        assert 20 < len(served) < 64
        # Those who are in are served as ever while the others wait.
        spent = cpu_seconds(pid)
        assert not next(client for client in waiting if client not in served).readable(1.0)
        assert cpu_seconds(pid) - spent < 0.3, "busy waiting for a descriptor"
        assert all(in_step(client) for client in served)
        # As they leave, the others get in, to the last one.
        for client in served:
            client.close()
        for client in waiting:
            if client not in served:
                assert client.read_response().body == b"hello"
                client.close()
        assert server.request("/hello").body == b"hello"
        log = server.output.text()
        assert log.count("\n") < 60, "the log is flooded"


# -- workers that die


def test_a_killed_worker_loses_only_what_was_running_in_it() -> None:
    with serve("faults:app", "--no-access-log", workers=2) as server:
        stop = threading.Event()
        served: list[int] = []
        lost: list[BaseException] = []

        def ask() -> None:
            while not stop.is_set():
                try:
                    response = server.request("/resources", headers=["Connection: close"])
                    served.append(response.value()["pid"])
                except (Truncated, OSError) as error:
                    lost.append(error)

        clients = [threading.Thread(target=ask) for _ in range(8)]
        for thread in clients:
            thread.start()
        try:
            eventually(lambda: len(set(served)) == 2, "both workers to serve")
            victim = served[-1]
            os.kill(victim, signal.SIGKILL)
            eventually(lambda: len(set(served)) == 3, "the successor to serve")
            mark = len(served)
            eventually(lambda: len(served) > mark + 50, "everything to go on")
        finally:
            stop.set()
            for thread in clients:
                thread.join()
        assert len(lost) <= len(clients), lost
        assert victim not in served[mark:]
