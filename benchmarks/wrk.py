"""The load generator of the HTTP workloads: wrk.

A Lua script tells it what to send, and to report its figures as one line of JSON. wrk's own summary rounds to three
digits and prints units; the script's `done` has the numbers themselves.
"""

import json
import resource
import subprocess
from pathlib import Path
from typing import Any

from .figures import Figures, LoadError
from .workloads import Workload

MARK = "figures "


def lua_quoted(text: bytes) -> str:
    """A Lua string literal for any bytes."""
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03d}" for b in text) + '"'


def lua_script(workload: Workload) -> str:
    """The whole script: the request, made once, and the report."""
    lines = [f"wrk.method = {lua_quoted(workload.method.encode())}"]
    lines += [f"wrk.headers[{lua_quoted(n.encode())}] = {lua_quoted(v.encode())}" for n, v in workload.fields]
    if workload.body:
        first = workload.body[:1]
        if workload.body.strip(first):
            raise ValueError("a request body must be one byte, repeated")
        lines.append(f"wrk.body = string.rep({lua_quoted(first)}, {len(workload.body)})")
    if workload.pipelined > 1:
        # In init and not at the top of the file: wrk.format needs the Host field, which wrk adds just before init.
        one = f"wrk.format(nil, {lua_quoted(workload.path.encode())})"
        lines.append("local requests")
        lines.append(f"init = function(args) requests = string.rep({one}, {workload.pipelined}) end")
        lines.append("request = function() return requests end")
    lines.append(REPORT)
    return "\n".join(lines)


REPORT = f"""
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{MARK}{{"requests": %d, "duration_us": %d, "p50_us": %.1f, "p99_us": %.1f, "failures": '
    .. '{{"connect errors": %d, "read errors": %d, "write errors": %d, "timeouts": %d, "answers above 399": %d}}}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.timeout, e.status))
end
"""


def parse(output: str) -> Figures:
    """The figures in wrk's output, p50 and p99 over all answers, pipelined ones too. Raises LoadError without them."""
    for line in output.splitlines():
        if line.startswith(MARK):
            found: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return Figures(**found)
    raise LoadError(f"wrk printed no figures:\n{output.strip()}")


def run(workload: Workload, port: int, seconds: float, cpu: int, scratch: Path) -> tuple[Figures, float]:
    """Load the server on loopback `port` for `seconds`. Returns the figures and the CPU seconds wrk itself used.

    wrk takes whole seconds; the caller rounds.
    """
    script = scratch / f"{workload.name}.lua"
    script.write_text(lua_script(workload))
    command = ["taskset", "-c", str(cpu), "wrk", "-t", "1", "-c", str(workload.connections)]
    command += ["-d", f"{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(script)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{workload.path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return parse(done.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
