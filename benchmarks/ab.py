"""Two builds of Ladybug against each other: did this change help?

Usage:
    python benchmarks/ab.py OLD NEW [--workloads plaintext,browser] [--rounds 8] [--seconds 1] [--with uvicorn]

OLD and NEW are commands ("/path/to/venv/bin/ladybug", or several words in quotes). Their environments must hold
what the workload's application imports. Prints NEW / OLD per workload, with the spread over the rounds.

Unlike run.py this keeps all servers of a workload running and gives them turns of a second, so that a machine that
speeds up or slows down does it to both; they are started anew halfway, because no two processes are equally lucky
with their memory.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

sys.path.append(str(Path(__file__).parent.parent))  # run as a file: the package is this file's directory

from benchmarks import environments, load, ratios
from benchmarks.figures import LoadError
from benchmarks.measure import Sample, measure, progress
from benchmarks.run import bench_in, chosen
from benchmarks.servers import BY_NAME as SERVERS
from benchmarks.servers import Bench, Server, ServerProblem, build, serve
from benchmarks.workloads import BY_NAME as WORKLOADS
from benchmarks.workloads import Workload

DEFAULT = "plaintext,browser,seed,pipeline16,c1"
STARTS = 2  # of every server, per workload


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--workloads", default=DEFAULT, help=f"default {DEFAULT}; any of {','.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="a turn; wrk takes whole seconds (default 1)")
    parser.add_argument("--with", dest="others", default="", help="peers to run beside them, such as uvicorn")
    parser.add_argument("--python", default="3.13", help="which peers")
    parser.add_argument("--venvs", type=Path, default=environments.ROOT / ".venv" / "bench")
    return parser.parse_args()


def turns(
    servers: Sequence[Server], workload: Workload, bench: Bench, numbers: range, seconds: float
) -> Iterator[Sample]:
    """All servers at once, each idle but in its turn; every other round in the opposite order."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(serve(server, workload, bench)) for server in servers]
        players = [(server, stack.enter_context(load.client(workload, server.port, bench))) for server in running]
        for _, client in players:
            client.load(1.0)
        for number in numbers:
            for server, client in players if number % 2 else reversed(players):
                taken = measure(server, client, workload, bench, seconds, number)
                progress(taken)
                yield taken


def print_ratios(samples: Sequence[Sample], workloads: Sequence[Workload], name: str, base: str) -> None:
    print(f"\n{name + ' / ' + base:<20} requests/s      range      CPU     p50     p99")
    for workload in workloads:
        found = ratios.ratios(samples, workload.name, name, base, ratios.per_second)
        if not found:
            print(f"{workload.name:<20} fails")
            continue
        cells = [ratios.ratio(samples, workload.name, name, base, ratios.cpu)]
        if workload.pipelined == 1:
            cells += [ratios.ratio(samples, workload.name, name, base, value) for value in (ratios.p50, ratios.p99)]
        line = f"{workload.name:<20} {median(found):>10.3f}  {min(found):.2f}-{max(found):.2f}"
        line += "".join(f"{cell:>9.3f}" for cell in cells if cell is not None)
        print(line)


def main() -> None:
    options = arguments()
    try:
        environments.check_tools()
        others = chosen(options.others, SERVERS)
        workloads = chosen(options.workloads, WORKLOADS)
        peers = environments.peers(options.venvs, options.python) if others else Path(sys.prefix)
        servers = [build("old", options.old), build("new", options.new), *others]
        samples: list[Sample] = []
        half = (options.rounds + 1) // STARTS
        with bench_in(peers, []) as bench:
            for workload in workloads:
                for numbers in (range(half), range(half, options.rounds)):
                    samples += turns(servers, workload, bench, numbers, options.seconds)
    except (environments.EnvironmentProblem, ServerProblem, LoadError) as problem:
        sys.exit(f"ab: {problem}")
    print_ratios(samples, workloads, "new", "old")
    for other in others:
        for name in ("old", "new"):
            print_ratios(samples, workloads, name, other.name)


if __name__ == "__main__":
    main()
