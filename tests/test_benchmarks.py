"""The pure parts of the comparison: a figure that is wrong here would be wrong in RESULTS.md."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# At the end: an installed, compiled ladybug must not be shadowed by the sources beside benchmarks/.
sys.path.append(str(Path(__file__).parent.parent))

from benchmarks import (
    arrivals,
    environments,
    frames,
    probes,
    proc,
    ratios,
    report,
    servers,
    targets,
    workloads,
    wrk,
    ws,
)
from benchmarks.figures import LoadError
from benchmarks.measure import Sample
from benchmarks.probes import Reading

REPORT = (
    'figures {"requests": 1000, "duration_us": 2000000, "p50_us": 87.0, "p99_us": 595.5, "failures": '
    '{"connect errors": 0, "read errors": 3, "write errors": 0, "timeouts": 0, "answers above 399": 7}}'
)


def sample(server: str, number: int, per_second: float, error: str = "", user_us: float = 1.0) -> Sample:
    return Sample("plaintext", server, number, per_second, user_us=user_us, error=error)


def test_wrk_figures_are_found_among_its_own_output() -> None:
    figures = wrk.parse(f"Running 2s test @ http://127.0.0.1:1/\n  1 threads\n{REPORT}\n")
    assert (figures.per_second, figures.p50_us, figures.p99_us) == (500.0, 87.0, 595.5)


def test_wrk_errors_and_refusals_invalidate_a_sample() -> None:
    assert wrk.parse(REPORT).complaint() == "errors under load: 3 read errors, 7 answers above 399 of 1000 requests"
    assert wrk.parse(REPORT.replace(": 3,", ": 0,").replace(": 7}", ": 0}")).complaint() == ""


def test_wrk_that_could_not_connect_is_an_error_with_its_words() -> None:
    with pytest.raises(LoadError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_lua_strings_survive_any_byte() -> None:
    assert wrk.lua_quoted(b'a"b\\c\n\xff7') == '"a\\034b\\092c\\010\\2557"'


def test_lua_script_refuses_a_body_it_cannot_write_short() -> None:
    with pytest.raises(ValueError, match="one byte"):
        wrk.lua_script(workloads.Workload("w", "", "m:a", b"", body=b"ab"))


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize(
    "workload", [w for w in workloads.WORKLOADS if not w.websocket], ids=lambda workload: workload.name
)
def test_wrk_sends_what_the_workload_says(workload: workloads.Workload, tmp_path: Path) -> None:
    script = tmp_path / "w.lua"
    script.write_text(wrk.lua_script(workload))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}{workload.path}"
        with subprocess.Popen(
            ["wrk", "-t1", "-c1", "-d60s", "-s", str(script), url], stdout=subprocess.DEVNULL
        ) as load:
            try:
                received = first_request(listener, workload)
            finally:
                load.kill()
    head, _, rest = received.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == f"{workload.method} {workload.path} HTTP/1.1"
    assert {f"{name}: {value}" for name, value in workload.fields} < set(lines[1:])
    one = head + b"\r\n\r\n" + workload.body
    assert received == one * workload.pipelined, rest[:200]


def first_request(listener: socket.socket, workload: workloads.Workload) -> bytes:
    """All that wrk sends before it wants an answer; its first connection only tries whether anybody listens."""
    ends, received = workload.pipelined, b""
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20)
            while piece := connection.recv(1 << 20):
                received += piece
                heads, body = received.count(b"\r\n\r\n"), received.partition(b"\r\n\r\n")[2]
                if heads == ends and (ends > 1 or len(body) >= len(workload.body)):
                    return received


def test_stat_of_a_process_with_blanks_and_parentheses_in_its_name() -> None:
    numbers = ["0"] * 50
    numbers[0], numbers[2] = "7", "42"  # parent, session
    numbers[10:14] = [str(ticks * proc.TICKS) for ticks in (1, 2, 3, 4)]
    numbers[35] = "1"
    found = proc.parse_stat(f"123 (a) (b c) S {' '.join(numbers)}")
    assert found == proc.Stat(123, "a) (b c", "S", 7, 42, user=1, system=2, reaped=7, processor=1)


def test_stat_of_this_process_is_read() -> None:
    mine = proc.parse_stat(Path("/proc/self/stat").read_text())
    assert mine.user + mine.system > 0
    assert mine.state == "R"


def test_rollup_skips_the_address_range() -> None:
    text = "55a-7ff ---p 00000000 00:00 0    [rollup]\nRss:     900 kB\nPss:     321 kB\nPss_Anon:  9 kB\n"
    assert proc.parse_rollup(text) == {"Rss": 900, "Pss": 321, "Pss_Anon": 9}


def test_stolen_time_counts_only_the_measuring_cpus() -> None:
    text = "cpu  1 1 1 1 1 1 1 900 0 0\ncpu0 1 1 1 1 1 1 1 200 0 0\ncpu1 1 1 1 1 1 1 1 300 0 0\ncpu2 1 1 1 1 1 1 1 400 0 0\n"
    assert proc.parse_steal(text, (0, 1)) == 500 / proc.TICKS


def test_strace_table_with_and_without_errors_column() -> None:
    text = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.100000           4     20000           sendto
 39.00    0.050000           3     20010        10 recvfrom
  1.00    0.000500           5       100           epoll_wait
------ ----------- ----------- --------- --------- ----------------
100.00    0.150500           4     40110        10 total
"""
    assert probes.parse_strace(text) == {"sendto": 20000, "recvfrom": 20010, "epoll_wait": 100}


def test_ratio_is_the_median_of_the_ratios_inside_rounds() -> None:
    """Round 1 is slow for both: the ratio of the medians would be 2.0 / 1.0 x something else."""
    samples = [sample("a", 0, 300), sample("b", 0, 100), sample("a", 1, 30), sample("b", 1, 15)]
    samples += [sample("a", 2, 250), sample("b", 2, 100)]
    assert ratios.ratio(samples, "plaintext", "a", "b", ratios.per_second) == 2.5


def test_a_failed_sample_takes_its_round_out() -> None:
    samples = [sample("a", 0, 300), sample("b", 0, 0, error="died"), sample("a", 1, 30), sample("b", 1, 10)]
    assert ratios.ratios(samples, "plaintext", "a", "b", ratios.per_second) == [3.0]
    assert ratios.ratio(samples[:2], "plaintext", "a", "b", ratios.per_second) is None


def test_a_disturbed_round_counts_only_when_all_are() -> None:
    disturbed = Sample("plaintext", "a", 0, 900, foreign=0.5)
    samples = [disturbed, sample("b", 0, 100), sample("a", 1, 30), sample("b", 1, 10)]
    assert ratios.ratios(samples, "plaintext", "a", "b", ratios.per_second) == [3.0]
    assert ratios.ratios(samples[:2], "plaintext", "a", "b", ratios.per_second) == [9.0]


def test_the_best_peer_is_the_fastest_without_a_fault() -> None:
    samples = [sample("a", 0, 300), sample("a", 1, 0, error="died"), sample("b", 0, 200), sample("c", 0, 100)]
    assert ratios.best_of(samples, "plaintext", ("a", "b", "c")) == "b"
    assert ratios.best_of(samples, "browser", ("a", "b", "c")) is None


def test_verdicts_at_the_bounds() -> None:
    faster = targets.Target("w", "x", targets.probe("x"), must=2.0, aim=3.0)
    assert [faster.verdict(v) for v in (1.99, 2.0, 3.0, None)] == ["**not met**", "met", "aim met", "not measured"]
    smaller = targets.Target("w", "x", targets.probe("x"), must=2.0, at_most=True)
    assert [smaller.verdict(v) for v in (2.01, 2.0)] == ["**not met**", "met"]


def test_every_target_reads_a_workload_and_servers_that_exist() -> None:
    """With equal servers everywhere each ratio is 1: a misspelt name would leave a target unmeasured."""
    everyone = [
        Sample(w.name, s.name, 0, 5.0, 1.0, 1.0, 1.0, 1.0) for w in workloads.WORKLOADS for s in servers.SERVERS
    ]
    readings = [Reading(server.name, name, 1.0) for server in servers.SERVERS for name in probes.UNITS]
    run = targets.Run(everyone, readings)
    assert {target.read(run) for target in targets.TARGETS} == {1.0}


def test_a_record_survives_json_and_the_report_shows_losses() -> None:
    samples = [sample("ladybug", 0, 100), sample("uvicorn", 0, 200), sample("fastpysgi", 0, 0, error="died | badly")]
    record = report.Record({"Python": "3.13"}, {"uvicorn": "1"}, samples, [Reading("ladybug", "start", 99.0)])
    assert report.from_json(record.to_json()) == record
    text = report.results([record])
    assert "| plaintext | requests/s, x uvicorn | 2.4 | 2.8 | 0.50 | **not met** |" in text
    assert "| browser | requests/s, x uvicorn | 2.4 | 2.8 | - | not measured |" in text
    assert "fails: died / badly" in text
    assert "x the best peer (uvicorn) | 1.6 |  | 0.50" in text
    assert "not measured" not in report.results([record], whole=False)


def test_of_what_was_measured_twice_on_a_machine_the_last_time_counts() -> None:
    first = report.Record(
        {"Python": "3.13", "Date": "1"},
        {},
        [sample("ladybug", 0, 100), sample("uvicorn", 0, 100)],
        [Reading("ladybug", "start", 9.0), Reading("ladybug", "opening", 8.0)],
    )
    again = report.Record(
        {"Python": "3.13", "Date": "2"},
        {},
        [sample("ladybug", 0, 300), sample("uvicorn", 0, 100)],
        [Reading("ladybug", "start", 7.0)],
    )
    other = report.Record({"Python": "3.11", "Date": "3"}, {}, [], [])
    one, two = report.joined([first, again, other])
    assert two == other
    assert one.facts == {"Python": "3.13", "Date": "1; 2"}
    assert one.samples == again.samples
    assert one.readings == [Reading("ladybug", "start", 7.0), Reading("ladybug", "opening", 8.0)]


def test_answers_are_checked_before_anything_is_measured() -> None:
    plaintext = workloads.BY_NAME["plaintext"]
    assert servers.complaint(200, b"Hello, World!", plaintext, exact=True) == ""
    assert servers.complaint(500, b"Hello, World!", plaintext, exact=True) == "status 500"
    assert servers.complaint(200, b"Hello", plaintext, exact=True) == "body of 5 bytes, not 13"
    assert servers.complaint(200, b"Hello, wORLD!", plaintext, exact=True) == "wrong body"
    assert servers.complaint(200, b"xxxxxxxxxxxxx", plaintext, exact=False) == ""


def test_a_websocket_answer_is_101_and_the_message() -> None:
    echo = workloads.BY_NAME["ws-64"]
    assert servers.complaint(101, b"x" * 64, echo, exact=True) == ""
    assert servers.complaint(200, b"x" * 64, echo, exact=True) == "status 200"
    assert servers.complaint(101, b"x" * 63, echo, exact=True) == "body of 63 bytes, not 64"


def test_who_plays_what() -> None:
    playing = {w.name: {s.name for s in servers.SERVERS if s.plays(w)} for w in workloads.WORKLOADS}
    assert {"socketify", "picows", "c-epoll", "uvicorn"} < playing["ws-64"]
    assert playing["ws-64"].isdisjoint({"fastpysgi", "nginx", "uvicorn-log", "ladybug-log"})
    assert playing["plaintext"].isdisjoint({"socketify", "picows"})
    assert playing["browser"].isdisjoint({"uvicorn-log", "ladybug-log"})


def test_a_load_generator_without_time_left_is_marked() -> None:
    samples = [Sample("ws-64", "ladybug", 0, 9.0, client=0.99), Sample("ws-64", "uvicorn", 0, 5.0, client=0.4)]
    text = report.workload_table(samples, workloads.BY_NAME["ws-64"])
    limited, free = text.splitlines()[2:]
    assert "| server | messages/s |" in text
    assert (limited.split(" | ")[0], limited.endswith("| client limited |")) == ("| ladybug", True)
    assert (free.split(" | ")[0], "client limited" in free) == ("| uvicorn", False)


def test_the_accept_of_rfc_6455_section_1_3() -> None:
    assert frames.accept_of(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_the_frames_of_rfc_6455_section_5_7() -> None:
    key = bytes.fromhex("37fa213d")
    assert frames.encode(frames.Frame(frames.TEXT, b"Hello"), key) == bytes.fromhex("818537fa213d7f9f4d5158")
    hello = bytes.fromhex("810548656c6c6f")
    assert frames.decode(hello + b"rest") == (frames.Frame(frames.TEXT, b"Hello"), b"rest")
    assert [frames.decode(hello[:size]) for size in range(len(hello))] == [None] * len(hello)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_frames_of_all_three_lengths(size: int) -> None:
    sent = frames.encode(frames.Frame(frames.BINARY, b"x" * size), bytes(4))
    head = sent[: -size - 4] if size else sent[:-4]
    received = bytes([head[0], head[1] & 0x7F]) + head[2:] + b"x" * size  # the same from a server: not masked
    assert frames.decode(received) == (frames.Frame(frames.BINARY, b"x" * size), b"")
    assert frames.decode(received[:-1]) is None


@pytest.mark.parametrize("head", ["0105", "c105", "8185"], ids=["fragmented", "reserved", "masked"])
def test_frames_that_a_server_should_not_send_us(head: str) -> None:
    with pytest.raises(frames.ProtocolError, match=head):
        frames.decode(bytes.fromhex(head))


def test_a_handshake_is_judged() -> None:
    key = b"dGhlIHNhbXBsZSBub25jZQ=="
    head = (
        b"HTTP/1.1 101 Switching Protocols\r\nSEC-WEBSOCKET-ACCEPT: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nUpgrade: websocket"
    )
    assert frames.check_response(head, key) == 101
    assert frames.check_response(b"HTTP/1.1 403 Forbidden", key) == 403
    with pytest.raises(frames.ProtocolError, match="Accept"):
        frames.check_response(head.replace(b"s3p", b"s3P"), key)
    with pytest.raises(frames.ProtocolError, match="extension"):
        frames.check_response(head + b"\r\nSec-WebSocket-Extensions: permessage-deflate", key)


def test_websocket_figures_are_read() -> None:
    line = 'figures {"requests": 1000, "duration_us": 2000000, "p50_us": 87.0, "p99_us": 595.5, "cpu_us": 500000}'
    figures, cpu = ws.parse(line)
    assert (figures.per_second, figures.p50_us, figures.p99_us, figures.complaint(), cpu) == (500, 87, 595.5, "", 0.5)
    with pytest.raises(LoadError, match="gone"):
        ws.parse("gone")


PING, PONG = 9, 10
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
ANY_CPU = min(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the C programs are compiled, once."""
    return tmp_path_factory.mktemp("programs")


@contextlib.contextmanager
def c_server(programs: Path, mode: str) -> Iterator[int]:
    """The anchor, listening. Yields its port."""
    program = environments.compiled(servers.HERE / "anchors" / "websocket.c", programs)
    port = servers.free_port()
    with subprocess.Popen([program, str(port), mode]) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    break
            yield port
        finally:
            process.kill()


@needs_cc
@pytest.mark.parametrize(
    "workload", [w for w in workloads.WORKLOADS if w.websocket], ids=lambda workload: workload.name
)
def test_the_websocket_client_and_the_anchor_agree(workload: workloads.Workload, programs: Path) -> None:
    with c_server(programs, "broadcast" if workload.websocket == "broadcast" else "echo") as port:
        assert frames.ask(port, workload, 20) == (101, workload.expected)
        with ws.opened(workload, port, ANY_CPU, programs, connections=30) as client:
            for _ in range(2):
                figures, cpu = client.load(0.05)
                assert figures.requests >= 30
                assert figures.duration_us >= 0.05e6
                assert 0 < figures.p50_us <= figures.p99_us <= figures.duration_us
                assert 0 < cpu <= figures.duration_us / 1e6


@contextlib.contextmanager
def scripted(answer: Callable[[frames.Frame], bytes], handshake: bytes = b"") -> Iterator[int]:
    """A server for one connection, which answers every frame with these bytes. Yields its port."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096)
            key = head.partition(b"Sec-WebSocket-Key: ")[2][:24]
            right = b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: " + frames.accept_of(key) + b"\r\n\r\n"
            connection.sendall(handshake or right)
            received = b""
            while piece := connection.recv(1 << 18):
                received += piece
                while len(received) >= 6 and len(received) >= (end := 6 + (received[1] & 127)):
                    payload = frames.masked(received[6:end], received[2:6])
                    connection.sendall(answer(frames.Frame(received[0] & 15, payload)))
                    received = received[end:]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(20)


def from_server(opcode: int, payload: bytes) -> bytes:
    return bytes([frames.FIN | opcode, len(payload)]) + payload


TINY = workloads.websocket("tiny", "", 8, 1)
WRONG = {
    "wrong content": lambda frame: from_server(frame.opcode, b"x" * 8),
    "7 bytes, not 8": lambda frame: from_server(frame.opcode, frame.payload[:7]),
    "opcode 1, not 2": lambda frame: from_server(frames.TEXT, frame.payload),
    "fragmented": lambda frame: b"\x02\x08" + frame.payload,
    "a masked frame": lambda frame: b"\x82\x88" + bytes(4) + frame.payload,
    "a message too many": lambda frame: from_server(frame.opcode, frame.payload) * 2,
    "code 1011": lambda frame: from_server(frames.CLOSE, (1011).to_bytes(2, "big")),
}


@needs_cc
@pytest.mark.parametrize("complaint", WRONG)
def test_the_websocket_client_finds_what_is_wrong(complaint: str, programs: Path) -> None:
    def try_it(port: int) -> None:
        with ws.opened(TINY, port, ANY_CPU, programs) as client:
            client.load(0.2)

    with scripted(WRONG[complaint]) as port, pytest.raises(LoadError, match=complaint):
        try_it(port)


@needs_cc
@pytest.mark.parametrize(
    ("handshake", "complaint"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "refused: HTTP/1.1 403"),
        (b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", "wrong Sec-WebSocket-Accept"),
    ],
)
def test_the_websocket_client_judges_handshakes(handshake: bytes, complaint: str, programs: Path) -> None:
    def try_it(port: int) -> None:
        with ws.opened(TINY, port, ANY_CPU, programs):
            pass

    with scripted(lambda frame: b"", handshake) as port, pytest.raises(LoadError, match=complaint):
        try_it(port)


@needs_cc
def test_the_websocket_client_answers_pings(programs: Path) -> None:
    pongs: list[bytes] = []

    def answer(frame: frames.Frame) -> bytes:
        if frame.opcode == PONG:
            pongs.append(frame.payload)
            return b""
        return from_server(PING, b"still there") + from_server(frame.opcode, frame.payload)

    with scripted(answer) as port, ws.opened(TINY, port, ANY_CPU, programs) as client:
        figures, _ = client.load(0.05)
    assert len(pongs) >= figures.requests >= 1
    assert set(pongs) == {b"still there"}


# -- clients that arrive


def arrived(took: float, error: str = "") -> arrivals.Arrival:
    return arrivals.Arrival(0.0, took, error=error)


def test_quantiles_are_of_those_who_were_answered() -> None:
    found = arrivals.summary([*(arrived(number / 100) for number in range(1, 101)), arrived(30.0, "no answer")])
    assert (found.count, found.failed, found.p50, found.p99, found.worst) == (101, 1, 0.5, 0.99, 1.0)
    assert arrivals.summary([arrived(1.0, "reset")]).failed == 1


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A server that says the same to everybody, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(65536)
                        client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", "truncated"),
        (b"HTTP/1.1 200 OK\r\nConte", "truncated"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 503 Service Unavailable"),
        (b"", "closed without an answer"),
    ],
)
def test_whoever_arrives_is_answered_or_says_why_not(answer: bytes, error: str) -> None:
    with answering(answer) as port, arrivals.Arrivals(port, 200.0) as clients:
        while len(clients.found) < 5:
            threading.Event().wait(0.01)
    assert {arrival.error for arrival in clients.found} == {error}
    if not error:
        assert {arrival.body for arrival in clients.found} == {b"abc"}


def test_whoever_is_refused_or_waits_in_vain_is_counted() -> None:
    port = servers.free_port()
    with arrivals.Arrivals(port, 200.0) as clients:
        while not clients.found:
            threading.Event().wait(0.01)
    assert {arrival.error for arrival in clients.found} == {"Connection refused"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with arrivals.Arrivals(silent.getsockname()[1], 50.0, patience=0.2) as clients:
            while not clients.found:
                threading.Event().wait(0.01)
        assert {arrival.error for arrival in clients.found} == {"no answer"}
