"""Ladybug beside its peers: measures, prints, and writes RESULTS.md.

Usage:
    python benchmarks/run.py                         everything, on Python 3.13: half an hour and more
    python benchmarks/run.py --quick                 one short round of the main workloads
    python benchmarks/run.py --python 3.13,3.11 --rounds 3 --out benchmarks/RESULTS.md
    python benchmarks/run.py --workloads plaintext,browser --servers ladybug,uvicorn
    python benchmarks/run.py --report benchmarks/samples/3.13-*.json    only write the report again
"""

import argparse
import contextlib
import datetime
import fcntl
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

sys.path.append(str(Path(__file__).parent.parent))  # run as a file: the package is this file's directory

from benchmarks import environments, measure, probes, report, servers, workloads
from benchmarks.servers import Bench

HERE = Path(__file__).parent
QUICK_WORKLOADS = "plaintext,browser,seed,pipeline16,c1,fastapi"
QUICK_SERVERS = "ladybug,uvicorn,granian-st,fastpysgi,c-epoll"
NEEDS = {"nginx": "nginx", "c-epoll": "cc"}  # anchors that need a tool of the system

T = TypeVar("T")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.13", help="versions, separated by commas (default 3.13)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workloads", default="", help=f"default all: {','.join(workloads.BY_NAME)}")
    parser.add_argument("--servers", default="", help=f"default all: {','.join(servers.BY_NAME)}")
    parser.add_argument("--seconds", type=float, default=0.0, help="of measuring (default: 2, or the workload's own)")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds of load before measuring (default 1)")
    parser.add_argument("--quick", action="store_true", help="one round, 1 s, main workloads and servers, no probes")
    parser.add_argument("--probes", choices=("yes", "no", "only"), default="yes", help="system calls, memory, start")
    parser.add_argument("--probe", default="", help=f"which of them, default all: {','.join(probes.NAMES)}")
    parser.add_argument("--out", type=Path, help="where the report goes (default: printed only)")
    parser.add_argument("--venvs", type=Path, default=environments.ROOT / ".venv" / "bench")
    parser.add_argument("--upgrade", action="store_true", help="install the newest peers again")
    parser.add_argument(
        "--ladybug", default="", help="command of an installed ladybug, instead of building this checkout"
    )
    parser.add_argument("--report", type=Path, nargs="+", help="write the report from kept samples; measure nothing")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.probes = 1, 1.0, "no"
        options.workloads = options.workloads or QUICK_WORKLOADS
        options.servers = options.servers or QUICK_SERVERS
    return options


def chosen(names: str, table: Mapping[str, T]) -> list[T]:
    """The entries called by name, in that order."""
    wanted = [name for name in names.split(",") if name]
    unknown = [name for name in wanted if name not in table]
    if unknown:
        raise environments.EnvironmentProblem(f"unknown: {', '.join(unknown)}; there are {', '.join(table)}")
    return [table[name] for name in wanted]


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One comparison at a time on a machine: two would measure each other."""
    with Path(tempfile.gettempdir(), "ladybug-bench.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            environments.say("waiting for another comparison on this machine to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def bench_in(environment: Path, ladybug: list[str]) -> Iterator[Bench]:
    """The bench of an environment, with a scratch directory, on the first two CPUs we may use."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise environments.EnvironmentProblem("two CPUs are needed: one for the server, one for the load")
    with alone(), tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        os.sched_setaffinity(0, {cpus[1]})  # our own polling must not run on the server's CPU
        try:
            yield Bench(environment / "bin", ladybug, cpus[0], cpus[1], Path(scratch))
        finally:
            os.sched_setaffinity(0, cpus)


def compare(options: argparse.Namespace, version: str, missing: list[str]) -> report.Record:
    """One whole run on one Python."""
    environment = environments.peers(options.venvs, version, upgrade=options.upgrade)
    playing = chosen(options.servers, servers.BY_NAME) or list(servers.SERVERS)
    playing = [server for server in playing if NEEDS.get(server.name) not in missing]
    if not options.ladybug and any(server.kind.startswith("ladybug") for server in playing):
        environments.install_ladybug(environment)
    ladybug = shlex.split(options.ladybug) or [str(environment / "bin" / "ladybug")]
    probing = chosen(options.probe, {name: name for name in probes.NAMES}) or probes.NAMES
    asked = chosen(options.workloads, workloads.BY_NAME) or list(workloads.WORKLOADS)
    if "cc" in missing:
        asked = [workload for workload in asked if not workload.websocket]
    samples: list[measure.Sample] = []
    readings: list[probes.Reading] = []
    with bench_in(environment, ladybug) as bench:
        if options.probes != "only":
            pace = measure.Pace(options.warm_up, options.seconds)
            samples += measure.rounds(playing, asked, bench, pace, options.rounds, measure.progress)
        if options.probes != "no":
            readings += probes.probe(playing, bench, probing, probes.progress)
    command = "python " + shlex.join(sys.argv)
    revision = report.output_of("git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*")
    facts = report.machine(environment / "bin" / "python", ladybug, command, revision)
    return report.Record(facts, environments.versions(environment), samples, readings)


def keep(record: report.Record, version: str) -> None:
    """The raw samples, out of git."""
    directory = HERE / "samples"
    directory.mkdir(exist_ok=True)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    path = directory / f"{version}-{stamp}.json"
    path.write_text(record.to_json())
    environments.say(f"samples are in {path}")


def main() -> None:
    options = arguments()
    try:
        if options.report:
            records = [report.from_json(path.read_text()) for path in options.report]
        else:
            missing = environments.check_tools()
            if missing:
                environments.say(f"missing, and left out: {', '.join(missing)}")
            records = []
            for version in options.python.split(","):
                records.append(compare(options, version, missing))
                keep(records[-1], version)
    except environments.EnvironmentProblem as problem:
        sys.exit(f"bench: {problem}")
    print(report.results(records, whole=False))
    if options.out:
        options.out.write_text(report.results(records, whole=True))


if __name__ == "__main__":
    main()
