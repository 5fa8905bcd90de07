"""Two builds of Ladybug against each other, interleaved: did this change help?

Usage:
    python benchmarks/ab.py OLD NEW [--workloads plaintext,browser] [--rounds 5] [--seconds 1] [--with uvicorn]

OLD and NEW are commands ("/path/to/venv/bin/ladybug", or several words in quotes). Their environments must hold
what the workload's application imports. Prints NEW / OLD per workload, with the spread over the rounds.
"""

import argparse
import sys
from pathlib import Path
from statistics import median

sys.path.append(str(Path(__file__).parent.parent))  # run as a file: the package is this file's directory

from benchmarks import environments, ratios
from benchmarks.measure import Pace, progress, rounds
from benchmarks.run import bench_in, chosen
from benchmarks.servers import BY_NAME as SERVERS
from benchmarks.servers import build
from benchmarks.workloads import BY_NAME as WORKLOADS

DEFAULT = "plaintext,browser,seed,pipeline16,c1"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--workloads", default=DEFAULT, help=f"default {DEFAULT}; any of {','.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--with", dest="others", default="", help="peers to run beside them, such as uvicorn")
    parser.add_argument("--python", default="3.13", help="which peers")
    parser.add_argument("--venvs", type=Path, default=environments.ROOT / ".venv" / "bench")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    environments.check_tools()
    others = chosen(options.others, SERVERS)
    peers = environments.peers(options.venvs, options.python) if others else Path(sys.prefix)
    servers = [build("old", options.old), build("new", options.new), *others]
    workloads = chosen(options.workloads, WORKLOADS)
    with bench_in(peers, []) as bench:
        pace = Pace(seconds=options.seconds)
        samples = list(rounds(servers, workloads, bench, pace, options.rounds, progress))
    for name, base in [("new", "old")] + [(s, o.name) for o in others for s in ("old", "new")]:
        print(f"\n{name} / {base:<18} requests/s        range    CPU/request      p50      p99")
        for workload in workloads:
            found = ratios.ratios(samples, workload.name, name, base, ratios.per_second)
            if not found:
                print(f"{workload.name:<20} fails")
                continue
            line = f"{workload.name:<20} {median(found):>8.3f}  {min(found):.3f}-{max(found):.3f}"
            for value in (ratios.cpu, ratios.p50, ratios.p99):
                line += f" {ratios.ratio(samples, workload.name, name, base, value) or 0:>10.3f}"
            print(line)


if __name__ == "__main__":
    main()
