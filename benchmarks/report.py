"""RESULTS.md: the machine, the targets, every figure of every server, losses and failures included. Pure but for
`machine`, which asks the system what it is."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import probes, ratios
from .measure import Sample
from .probes import Reading
from .servers import BASELINE, SERVERS
from .targets import TARGETS, Run
from .workloads import WORKLOADS, Workload


@dataclass(frozen=True)
class Record:
    """One run on one Python, as kept in JSON: all samples, all readings, and the facts around them."""

    facts: dict[str, str]
    versions: dict[str, str]
    samples: list[Sample]
    readings: list[Reading]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def from_json(text: str) -> Record:
    found: dict[str, Any] = json.loads(text)
    return Record(
        found["facts"],
        found["versions"],
        [Sample(**sample) for sample in found["samples"]],
        [Reading(**reading) for reading in found["readings"]],
    )


def first_line(path: str, start: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(start[-1])[2].strip(' "') for line in lines if line.startswith(start[:-1])), "unknown")


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def machine(python: Path, ladybug: Sequence[str], command: str, revision: str) -> dict[str, str]:
    """What a reader needs to judge the figures."""
    optimised = (
        "import platform, sysconfig as s; a = s.get_config_var('CONFIG_ARGS') or ''; "
        "print(platform.python_version(), 'with PGO' if '--enable-optimizations' in a else 'without PGO')"
    )
    memory = int(first_line("/proc/meminfo", "MemTotal:").split()[0]) / 1024**2
    return {
        "Date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Command": command,
        "Ladybug": f"{output_of(*ladybug, '--version')}; revision {revision}",
        "Python": output_of(str(python), "-c", optimised),
        "CPU": f"{os.cpu_count()} x {first_line('/proc/cpuinfo', 'model name:')}",
        "Memory": f"{memory:.0f} GiB",
        "System": f"Linux {platform.release()}, {first_line('/etc/os-release', 'PRETTY_NAME=')}",
        "wrk": output_of("wrk", "-v").partition("Copyright")[0].strip(),
        "nginx": output_of("sh", "-c", "PATH=$PATH:/usr/sbin nginx -v 2>&1").rpartition("/")[2],
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table: the first `left` columns to the left, the others to the right."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * left + "--:|" * (len(head) - left)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def number(value: float | None) -> str:
    """Three significant digits, no exponent."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def targets_table(run: Run, *, whole: bool) -> str:
    """`whole` lists what was not measured, too."""
    rows = []
    for target in TARGETS:
        value = target.read(run)
        if value is None and not whole:
            continue
        sign = "<= " if target.at_most else ""
        aim = "" if target.aim is None else f"{sign}{target.aim:g}"
        rival = target.rival(run)
        what = f"{target.what} ({rival})" if rival else target.what
        rows.append((target.workload, what, f"{sign}{target.must:g}", aim, number(value), target.verdict(value)))
    return table(("workload", "figure", "must", "aim", "measured", "verdict"), rows, left=2)


def servers_of(samples: Sequence[Sample], workload: Workload) -> list[str]:
    """In the order of the table of servers; strangers (builds under test) last."""
    seen = dict.fromkeys(s.server for s in samples if s.workload == workload.name)
    known = [server.name for server in SERVERS if server.name in seen]
    return known + [name for name in seen if name not in known]


def failure(samples: Sequence[Sample], workload: str, server: str) -> str:
    return next(
        (s.error.splitlines()[0] for s in samples if (s.workload, s.server) == (workload, server) and s.error), ""
    )


def limited(samples: Sequence[Sample], workload: str, server: str) -> str:
    found = ratios.by_round(samples, workload, server).values()
    return "client limited" if any(sample.client_limited for sample in found) else ""


def workload_table(samples: Sequence[Sample], workload: Workload) -> str:
    rows = []
    for server in servers_of(samples, workload):

        def middle(value: ratios.Value, server: str = server) -> str:
            return number(ratios.typical(samples, workload.name, server, value))

        ratio = ratios.ratio(samples, workload.name, server, BASELINE, ratios.per_second)
        failed = failure(samples, workload.name, server)
        rows.append(
            (
                server,
                middle(ratios.per_second),
                number(ratio),
                middle(ratios.cpu),
                f"{middle(lambda s: s.user_us)} + {middle(lambda s: s.system_us)}",
                # wrk takes the time of one answer in a pipeline, if that
                "" if workload.pipelined > 1 else f"{middle(ratios.p50)} / {middle(ratios.p99)}",
                middle(lambda s: s.pss_kib / 1024),
                f"fails: {failed}"[:90].replace("|", "/") if failed else limited(samples, workload.name, server),
            )
        )
    head = ("server", f"{workload.counted}/s", "x uvicorn", "CPU us", "user + system", "p50 / p99 us", "PSS MiB", "")
    return table(head, rows)


def probes_table(readings: Sequence[Reading]) -> str:
    names = [name for name in probes.UNITS if any(r.name == name for r in readings)]
    servers = dict.fromkeys(r.server for r in readings)
    rows = []
    for server in servers:
        row = [server]
        for name in names:
            found = [r for r in readings if (r.server, r.name) == (server, name)]
            row.append("" if not found else "fails" if found[-1].error else number(found[-1].value))
        rows.append(row)
    legend = "\n".join(f"- {name}: {probes.UNITS[name]}" for name in names)
    return f"{table(['server', *names], rows)}\n\n{legend}"


def noise(samples: Sequence[Sample]) -> str:
    disturbed = sum(sample.disturbed for sample in samples)
    again = sum(sample.takes - 1 for sample in samples)
    return (
        f"{len(samples)} samples; {again} were taken again because other processes disturbed them, "
        f"{disturbed} stayed disturbed, {sum(bool(s.error) for s in samples)} failed."
    )


def section(record: Record, *, whole: bool) -> str:
    run = Run(record.samples, record.readings)
    parts = [f"## Python {record.facts['Python']}"]
    parts.append("\n".join(f"- {name}: {value}" for name, value in record.facts.items()))
    parts.append("Versions: " + ", ".join(f"{name} {version}" for name, version in record.versions.items()) + ".")
    parts.append(noise(record.samples))
    parts.append("### Targets\n\n" + targets_table(run, whole=whole))
    for workload in WORKLOADS:
        if any(sample.workload == workload.name for sample in record.samples):
            parts.append(f"### {workload.name}: {workload.title}\n\n" + workload_table(record.samples, workload))
    if record.readings:
        parts.append("### Beside the requests\n\n" + probes_table(record.readings))
    return "\n\n".join(parts)


# Facts that may differ between runs that are reported together.
OF_ONE_RUN = frozenset(("Date", "Command", "Ladybug"))

DOOR = """# Results

Written by `benchmarks/run.py`; README.md says how the figures are taken. Medians over the rounds; "x uvicorn" is the
median of the ratios inside each round, against uvicorn with uvloop and httptools and without access log. nginx, picows
and c-epoll are anchors, not ASGI servers: they show what the machine and the client can do at all. "client limited":
the load generator had no time left; a faster server would have got the same figure, and its CPU is what tells."""


def joined(records: Sequence[Record]) -> list[Record]:
    """Records of one machine and Python made one. What was measured twice counts as it was the last time."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        same = tuple(value for name, value in record.facts.items() if name not in OF_ONE_RUN)
        groups.setdefault(same, []).append(record)
    return [_join(group) for group in groups.values()]


def _join(records: Sequence[Record]) -> Record:
    samples: dict[str, list[Sample]] = {}
    for record in records:
        for workload in {sample.workload for sample in record.samples}:
            samples[workload] = [sample for sample in record.samples if sample.workload == workload]
    readings = {(r.server, r.name): r for record in records for r in record.readings}
    facts = dict(records[0].facts)
    for name in OF_ONE_RUN & facts.keys():
        facts[name] = "; ".join(dict.fromkeys(record.facts[name] for record in records))
    return Record(facts, records[0].versions, [s for group in samples.values() for s in group], list(readings.values()))


def results(records: Sequence[Record], *, whole: bool = True) -> str:
    return "\n\n".join([DOOR, *(section(record, whole=whole) for record in joined(records))]) + "\n"
