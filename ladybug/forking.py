"""Forking: what every fork of ours needs, whoever forks whom.

No asyncio: the master imports this room.
"""

import contextlib
import os
import sys


def open_pipe(close: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe, to read from and to write to; `close` closes both ends. Raises OSError."""
    ends = os.pipe()
    for fd in ends:
        close.callback(os.close, fd)
    return ends


def flush() -> None:
    """Before a fork, or both processes would write what is in the buffers; and before a process ends without Python's help."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a broken pipe, closed, None
            stream.flush()
