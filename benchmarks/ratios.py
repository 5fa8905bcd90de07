"""From samples to figures: medians over rounds, and ratios inside rounds. Pure.

Rule: what is compared was measured in the same round. The ratio of two servers is the median of their ratios in
each round, never the ratio of two medians: a machine that is slow for a minute is slow for both.
"""

from collections.abc import Callable, Sequence
from statistics import median

from .measure import Sample

Value = Callable[[Sample], float]


def per_second(sample: Sample) -> float:
    return sample.per_second


def cpu(sample: Sample) -> float:
    return sample.cpu_us


def p50(sample: Sample) -> float:
    return sample.p50_us


def p99(sample: Sample) -> float:
    return sample.p99_us


def by_round(samples: Sequence[Sample], workload: str, server: str) -> dict[int, Sample]:
    """The valid samples of one server on one workload."""
    return {s.round: s for s in samples if (s.workload, s.server) == (workload, server) and not s.error}


def ratios(samples: Sequence[Sample], workload: str, server: str, reference: str, value: Value) -> list[float]:
    """server / reference in every round in which both have a valid sample.

    Rounds in which other processes disturbed one of the two count only when there is no other.
    """
    ours, theirs = by_round(samples, workload, server), by_round(samples, workload, reference)
    both = [n for n in sorted(ours.keys() & theirs.keys()) if value(theirs[n])]
    calm = [n for n in both if not (ours[n].disturbed or theirs[n].disturbed)]
    return [value(ours[n]) / value(theirs[n]) for n in calm or both]


def ratio(samples: Sequence[Sample], workload: str, server: str, reference: str, value: Value) -> float | None:
    found = ratios(samples, workload, server, reference, value)
    return median(found) if found else None


def typical(samples: Sequence[Sample], workload: str, server: str, value: Value) -> float | None:
    found = by_round(samples, workload, server).values()
    return median(value(sample) for sample in found) if found else None


def best_of(samples: Sequence[Sample], workload: str, servers: Sequence[str]) -> str | None:
    """The server with most requests per second on a workload, of those that did it without fault."""
    faulty = {s.server for s in samples if s.workload == workload and s.error}
    speeds = {
        server: speed
        for server in servers
        if server not in faulty and (speed := typical(samples, workload, server, per_second)) is not None
    }
    return max(speeds, key=lambda server: speeds[server]) if speeds else None
