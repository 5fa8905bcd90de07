"""What a load generator reports, whichever it is, and how it fails."""

from dataclasses import dataclass, field


class LoadError(Exception):
    """The load generator could not run, or met something wrong; the message says what."""


@dataclass(frozen=True)
class Figures:
    """What was counted: answers, messages or handshakes, and for how long. Durations in microseconds."""

    requests: int
    duration_us: int
    p50_us: float
    p99_us: float
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        return self.requests / self.duration_us * 1e6

    def complaint(self) -> str:
        """Why this is not a valid sample, or nothing."""
        failed = ", ".join(f"{count} {kind}" for kind, count in self.failures.items() if count)
        if failed:
            return f"errors under load: {failed} of {self.requests} requests"
        return "" if self.requests else "no answer under load"
