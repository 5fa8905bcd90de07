"""Ladybug with nobody who watches: no heartbeats after the first, no look at them, no steering. Only to be compared with.

PYTHON benchmarks/unwatched.py [OPTIONS]        with the interpreter where Ladybug is installed, and its options
"""

import math

from ladybug import supervisor, worker
from ladybug.cli import main
from ladybug.steering import Steering


def stay(self: Steering, receiving: object) -> bool:
    return False


if __name__ == "__main__":
    worker.BEAT = 1e6
    supervisor.SILENCE = math.inf
    Steering.steer = stay  # type: ignore[method-assign]
    main()
