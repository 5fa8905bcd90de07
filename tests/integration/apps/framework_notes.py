"""How the framework applications tell their test what happened: a line on standard output."""

from __future__ import annotations

import os


def note(what: str) -> None:
    """One write for the whole line: several workers may share the pipe."""
    os.write(1, f"APP {what}\n".encode())
