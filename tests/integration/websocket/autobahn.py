"""The Autobahn testsuite (https://github.com/crossbario/autobahn-testsuite): found, installed, run, and its report read.

    python -m tests.integration.websocket.autobahn DIRECTORY     installs it there, or says why it cannot

It is Python 2.7 to this day (its sources do not parse as Python 3), so it is never imported: an interpreter of its own runs
it, from a directory of its own. Where there is no such interpreter nothing fails; test_autobahn.py skips, and says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# This release pins all it depends on.
REQUIREMENT: Final = "autobahntestsuite==25.10.1"
# Where the interpreter that it was installed for is noted.
NOTE: Final = "interpreter"

# addsitedir: one of its dependencies is a namespace package, which only a site directory makes whole.
_RUN: Final = (
    "import site, sys; site.addsitedir(sys.argv[1]); sys.path.insert(0, sys.argv[1]);"
    " sys.argv = ['wstest', '-m', 'fuzzingclient', '-s', sys.argv[2]];"
    " from autobahntestsuite.wstest import run; run()"
)

CATEGORIES: Final = {
    1: "Framing",
    2: "Pings and pongs",
    3: "Reserved bits",
    4: "Opcodes",
    5: "Fragmentation",
    6: "UTF-8",
    7: "Closing",
    9: "Limits and speed",
    10: "Fragmented output",
    12: "Compression, by message size",
    13: "Compression, by parameters",
}


def maybe_python27() -> str | None:
    """An interpreter of Python 2.7 that runs: one on PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found: list[str | Path | None] = [shutil.which(name) for name in ("python2.7", "python2", "pypy2.7", "pypy")]
    found += sorted(pyenv.glob("versions/*2.7*/bin/python"), reverse=True)
    for path in found:
        # What is on PATH may be a shim with nothing behind it: only running it tells.
        asked = [str(path), "-c", "import sys, pip; assert sys.version_info[:2] == (2, 7)"]
        if path is not None and subprocess.run(asked, capture_output=True, check=False).returncode == 0:
            return str(path)
    return None


def install(directory: Path) -> str:
    """Install the testsuite, unless it is there. What there is to say about it."""
    if is_installed(directory):
        return f"The Autobahn testsuite is in {directory}."
    interpreter = maybe_python27()
    if interpreter is None:
        return "The Autobahn testsuite needs Python 2.7 with pip, on PATH or among pyenv's versions: its tests are skipped."
    command = [
        interpreter,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--target",
        str(directory),
    ]
    if subprocess.run([*command, REQUIREMENT], check=False).returncode != 0:
        return "The Autobahn testsuite could not be installed: its tests are skipped."
    (directory / NOTE).write_text(interpreter)
    return f"The Autobahn testsuite is in {directory}."


def is_installed(directory: Path) -> bool:
    return (directory / NOTE).exists()


@dataclass(frozen=True, slots=True)
class Case:
    """What became of one case: OK, INFORMATIONAL, NON-STRICT, UNIMPLEMENTED, FAILED ..."""

    id: str
    behavior: str
    closing: str
    milliseconds: int

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.id.split("."))

    @property
    def passed(self) -> bool:
        # INFORMATIONAL: the RFC leaves it open; the report only tells what the server did.
        return {self.behavior, self.closing} <= {"OK", "INFORMATIONAL"}


def run(directory: Path, url: str, cases: Iterable[str], excluded: Iterable[str], report: Path) -> list[Case]:
    """Run `cases` ("9.*", "7.1.5") but for those `excluded` against the server; the pages of the report go to `report`."""
    report.mkdir(parents=True, exist_ok=True)
    orders = report / "orders.json"
    server = {"agent": "ladybug", "url": url}
    wanted = {"outdir": str(report), "servers": [server], "cases": [*cases], "exclude-cases": [*excluded]}
    orders.write_text(json.dumps({**wanted, "exclude-agent-cases": {}}))
    command = [(directory / NOTE).read_text(), "-c", _RUN, str(directory), str(orders)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=report)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return sorted(_read_report(report / "index.json"), key=lambda case: case.numbers)


def _read_report(index: Path) -> Iterator[Case]:
    for name, found in json.loads(index.read_text())["ladybug"].items():
        yield Case(name, found["behavior"], found["behaviorClose"], found["duration"])


def summary(cases: Iterable[Case]) -> str:
    """A line for each category, and one for each case that is not simply right."""
    cases = list(cases)
    lines = []
    for number, title in CATEGORIES.items():
        of_it = [case for case in cases if case.numbers[0] == number]
        if of_it:
            counts = Counter(case.behavior if case.passed else f"{case.behavior}/{case.closing}" for case in of_it)
            seconds = sum(case.milliseconds for case in of_it) / 1000
            told = ", ".join(f"{count} {behavior}" for behavior, count in counts.most_common())
            lines.append(f"{number:3}  {title:30} {told}  ({seconds:.1f} s)")
    lines += [f"     {case.id}: {case.behavior}, closing {case.closing}" for case in cases if not case.passed]
    return "\n".join([*lines, f"{len(cases)} cases, {sum(case.passed for case in cases)} passed"])


if __name__ == "__main__":
    sys.stdout.write(install(Path(sys.argv[1]).absolute()) + "\n")
