"""The shape of the house, as ARCHITECTURE.md draws it: who may import whom, and what a process must not carry.

Arrows are read from the source, imports inside functions included. What stands under `if TYPE_CHECKING` makes no arrow at
run time, so it may close a circle, but it is knowledge, so it points down like any other.
"""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.support import ROOT, Program, server_environment

PACKAGE = ROOT / "ladybug"

# From the top down. A new module has to be given its floor here.
FLOORS: dict[str, set[str]] = {
    "entry": {"__main__", "cli", "ctl", "launch", "outcome"},
    "fleet": {
        *(
            "actions",
            "children",
            "commands",
            "control",
            "fork_server",
            "master",
            "places",
            "preload",
            "reload",
            "slots",
            "steering",
            "supervisor",
        ),
    },
    "worker": {"worker", "server"},
    "services": {
        *(
            "about",
            "alarm",
            "config",
            "cpus",
            "descriptors",
            "env_file",
            "forking",
            "hints",
            "importer",
            "link",
            "listeners",
            "log",
        ),
        *("loops", "outlet", "pid_file", "privileges"),
        *("rescue", "scoreboard", "serving_loop", "setting", "signal_queue", "stacks", "systemd", "trace", "upgrade"),
    },
    "io": {"accept", "access_log", "connection", "deadlines", "poller", "transport", "websocket_connection"},
    "asgi": {f"asgi.{path.stem}" for path in (PACKAGE / "asgi").glob("[a-z]*.py")},
    "protocol": {f"protocol.{path.stem}" for path in (PACKAGE / "protocol").glob("[a-z]*.py")},
    # Words for what goes wrong: under every floor, because every floor may have to say one.
    "ground": {"exceptions"},
}
DEPTH = {module: depth for depth, modules in enumerate(FLOORS.values()) for module in modules}


class Import(NamedTuple):
    module: str  # the whole name; for `from x import y`, x.y if that is a module of ours, else x
    at_run_time: bool
    line: int


def source_of(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(module: str) -> list[Import]:
    """Every import in the source of a module of ours."""
    return list(_imports(ast.parse(source_of(module).read_text()), at_run_time=True))


def _imports(node: ast.AST, at_run_time: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_run_time, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0 and child.module is not None, "imports are absolute here"
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield Import(inner if own_name(inner) in DEPTH else child.module, at_run_time, child.lineno)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for branch in child.body:
                yield from _imports(ast.Module([branch], []), False)
            for branch in child.orelse:
                yield from _imports(ast.Module([branch], []), at_run_time)
        else:
            yield from _imports(child, at_run_time)


def own_name(module: str) -> str:
    """The name inside the package; "" for anything else, and for the package itself.

    Whoever imports a module of a package has run its __init__ before: that is no arrow. Ours imports nothing.
    """
    return module.removeprefix("ladybug.") if module.startswith("ladybug.") else ""


def test_every_module_has_a_floor() -> None:
    modules = {name_of(path) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    assert modules == set(DEPTH)


@pytest.mark.parametrize("module", sorted(DEPTH))
def test_imports_only_point_downwards(module: str) -> None:
    upwards = [
        f"{module}:{imported.line} imports {own_name(imported.module)}"
        for imported in imports_of(module)
        if own_name(imported.module) and DEPTH[own_name(imported.module)] < DEPTH[module]
    ]
    assert not upwards


def test_there_are_no_circles() -> None:
    graph = {
        module: {own_name(item.module) for item in imports_of(module) if item.at_run_time} - {""} for module in DEPTH
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("floor", "forbidden"),
    [
        ("protocol", {"asyncio", "socket", "select", "time", "logging", "os"}),
        ("asgi", {"socket", "select", "os"}),
        ("ground", {"asyncio", "socket", "select", "time", "logging", "os"}),
    ],
)
def test_a_core_does_no_io(floor: str, forbidden: set[str]) -> None:
    found = {
        f"{module}:{item.line} imports {item.module}"
        for module in FLOORS[floor]
        for item in imports_of(module)
        if item.module.partition(".")[0] in forbidden
    }
    assert not found


@pytest.mark.parametrize("module", ["actions", "slots", "supervisor"])
def test_the_supervisor_does_no_io(module: str) -> None:
    found = {item.module.partition(".")[0] for item in imports_of(module)}
    assert not found & {"asyncio", "fcntl", "logging", "os", "select", "socket", "subprocess", "time"}


def test_what_is_compiled_lies_on_the_three_lower_floors() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ladybug"]["compiled"]
    compiled = {name_of(ROOT / path) for path in listed}
    assert len(compiled) == len(listed)
    # Why these two are not is written in their plates.
    assert compiled == (FLOORS["io"] | FLOORS["asgi"] | FLOORS["protocol"]) - {"asgi.awaitables", "asgi.lifespan"}


def modules_after(code: str) -> set[str]:
    """What is in sys.modules of a fresh interpreter that has run `code`."""
    program = f"{code}\nimport sys\nprint(*sys.modules)"
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env=server_environment(), cwd="/", capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_importing_the_package_imports_nothing_else() -> None:
    before = modules_after("")
    assert modules_after("import ladybug") - before == {"ladybug"}


def test_protocol_rooms_bring_no_io_with_them() -> None:
    rooms = "\n".join(f"import ladybug.{module}" for module in sorted(FLOORS["protocol"]))
    assert not modules_after(rooms) & {"asyncio", "socket", "ssl", "logging", "ladybug.config"}


MASTER = """
import sys
import ladybug
ladybug.run("tests.integration.apps.corpus:app", app_dir=sys.argv[1], port=0, workers=2)
print("modules:", *sys.modules, flush=True)
"""


def test_a_master_carries_neither_asyncio_nor_the_application_nor_a_compiled_room() -> None:
    """After a whole life: listeners opened, workers forked and stopped. A worker never gets to the last line."""
    program = Program([sys.executable, "-c", MASTER, str(ROOT)])
    try:
        program.output.wait_for("Press Ctrl")
        program.signal(signal.SIGTERM)
        assert program.wait() == 0, program.output.text()
    finally:
        if program.process.poll() is None:
            program.kill()
    listings = [line.split() for line in program.output.text("stdout").splitlines() if line.startswith("modules:")]
    assert len(listings) == 1
    carried = set(listings[0])
    assert "ladybug.master" in carried
    heavy = {"asyncio", "concurrent", "ctypes", "httptools", "inspect", "librt", "multiprocessing", "ssl", "uvloop"}
    lower = {f"ladybug.{module}" for floor in ("worker", "io", "asgi", "protocol") for module in FLOORS[floor]}
    application = {name for name in carried if name.startswith("tests")}
    assert not carried & heavy
    assert not carried & lower
    assert not application
    assert not {name for name in carried if name.endswith("__mypyc")}
