"""The pure parts of the comparison: a figure that is wrong here would be wrong in RESULTS.md."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

# At the end: an installed, compiled ladybug must not be shadowed by the sources beside benchmarks/.
sys.path.append(str(Path(__file__).parent.parent))

from benchmarks import probes, proc, ratios, report, servers, targets, workloads, wrk
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
    with pytest.raises(wrk.WrkError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_lua_strings_survive_any_byte() -> None:
    assert wrk.lua_quoted(b'a"b\\c\n\xff7') == '"a\\034b\\092c\\010\\2557"'


def test_lua_script_refuses_a_body_it_cannot_write_short() -> None:
    with pytest.raises(ValueError, match="one byte"):
        wrk.lua_script(workloads.Workload("w", "", "m:a", b"", body=b"ab"))


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize("workload", workloads.WORKLOADS, ids=lambda workload: workload.name)
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
