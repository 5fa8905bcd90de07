"""What --preload saves: memory of each additional worker of an application, with it and without.

Usage:
    python benchmarks/preload.py LADYBUG [--app fastapi_app:app] [--app-dir examples] [--path /notes] [--workers 4]

LADYBUG is a command ("/path/to/venv/bin/ladybug", or several words in quotes) whose environment holds what the application
imports.

A fleet is weighed with one worker and with several: what there is more, divided by the number of workers more, is what one
costs. PSS (proportional set size) counts a page that n processes share as 1/n in each, so the sum over a fleet counts it
once, and the master and the fork server are in that sum. Weighed when the fleet has started, and again after requests:
objects that are touched are copied, because their reference count is part of them.
"""

import argparse
import contextlib
import http.client
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))  # run as a file: the package is this file's directory

from benchmarks import proc
from benchmarks.servers import free_port, stop

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 60.0
CLIENTS = 8
# Requests to the whole fleet before each further weighing.
LOADS = (2_000, 18_000)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ladybug")
    parser.add_argument("--app", default="fastapi_app:app")
    parser.add_argument("--app-dir", default=str(ROOT / "examples"))
    parser.add_argument("--path", default="/notes")
    parser.add_argument("--workers", type=int, default=4)
    return parser.parse_args()


@contextlib.contextmanager
def fleet(options: argparse.Namespace, workers: int, extra: Sequence[str]) -> Iterator[tuple[int, int]]:
    """A fleet of which every worker is ready: process id of the master, and port."""
    port = free_port()
    command = [*shlex.split(options.ladybug), options.app, "--app-dir", options.app_dir, "--port", str(port), *extra]
    command += ["--workers", str(workers), "--no-access-log"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, env=environment())
    try:
        wait_until_ready(process)
        time.sleep(1.0)  # what is freed after the start
        yield process.pid, port
    finally:
        stop(process)


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("LADYBUG_")}


def wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    timer = threading.Timer(START_TIMEOUT, process.send_signal, [signal.SIGKILL])
    timer.start()
    assert process.stderr is not None
    said = b""
    for line in process.stderr:
        said += line
        if b"Press Ctrl+C" in line:
            timer.cancel()
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return
    timer.cancel()
    sys.exit(f"the server does not start:\n{said.decode(errors='replace')}")


def ask(port: int, path: str, count: int) -> None:
    """`count` requests by all clients together, a connection for every tenth, so that all workers get their share."""

    def client() -> None:
        for _ in range(count // CLIENTS // 10):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            for _ in range(10):
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200, answer.status
            connection.close()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def weigh(options: argparse.Namespace, workers: int, extra: Sequence[str]) -> list[float]:
    """MiB of the whole fleet: idle, then after each of LOADS."""
    with fleet(options, workers, extra) as (pid, port):
        sizes = [proc.pss_kib(pid) / 1024]
        for count in LOADS:
            ask(port, options.path, count)
            time.sleep(1.0)
            sizes.append(proc.pss_kib(pid) / 1024)
        return sizes


def main() -> None:
    options = arguments()
    names = ["idle", *(f"after {sum(LOADS[: number + 1]):,} requests" for number in range(len(LOADS)))]
    each: dict[str, list[float]] = {}
    for label, extra in (("without", ()), ("--preload", ("--preload",))):
        one, many = weigh(options, 1, extra), weigh(options, options.workers, extra)
        each[label] = [(large - small) / (options.workers - 1) for small, large in zip(one, many, strict=True)]
        for name, small, large in zip(names, one, many, strict=True):
            print(f"{label:<10} {name:<22} 1 worker {small:6.1f} MiB   {options.workers} workers {large:6.1f} MiB")
    print(f"\nPSS of each additional worker, {options.app}:")
    for name, before, after in zip(names, each["without"], each["--preload"], strict=True):
        print(f"{name:<22} {before:6.1f} -> {after:6.1f} MiB   saved {1 - after / before:.0%}")


if __name__ == "__main__":
    main()
