"""Which event loop is taken, and what is said when it cannot be."""

import asyncio
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ladybug.config import Config
from ladybug.exceptions import StartupError
from ladybug.loops import auto_loop, loop_factory, loop_name

has_uvloop = find_spec("uvloop") is not None


def made_by(loop: str) -> asyncio.AbstractEventLoop:
    made = loop_factory(Config("module:app", loop=loop))()
    made.close()
    return made


def test_auto_is_uvloop_where_it_is_installed() -> None:
    assert auto_loop() == ("uvloop" if has_uvloop else "asyncio")
    assert loop_name("auto") == auto_loop()
    assert type(made_by("auto")) is type(made_by(auto_loop()))


def test_auto_is_asyncio_without_uvloop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "uvloop"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert auto_loop() == "asyncio"


def test_asyncio_is_the_selector_loop() -> None:
    assert isinstance(made_by("asyncio"), asyncio.SelectorEventLoop)


@pytest.mark.skipif(not has_uvloop, reason="uvloop is not installed")
def test_uvloop_is_uvloop() -> None:
    assert type(made_by("uvloop")).__module__.startswith("uvloop")


def test_uvloop_that_is_not_there_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(
        StartupError, match=r"^--loop uvloop: .* Install it \(pip install \"ladybug-asgi\[standard\]\"\)"
    ):
        made_by("uvloop")


def test_a_uvloop_that_cannot_be_loaded_is_not_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it imports belongs to another user, for example."""
    (tmp_path / "uvloop.py").write_text("import no_such_module_of_uvloops")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "uvloop", raising=False)
    with pytest.raises(StartupError, match=r"^--loop uvloop: .*no_such_module_of_uvloops'\. Can this user read "):
        made_by("uvloop")


def test_an_import_string_names_a_factory() -> None:
    assert isinstance(made_by("asyncio:new_event_loop"), asyncio.AbstractEventLoop)
    assert loop_name("asyncio:new_event_loop") == "asyncio:new_event_loop"


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        ("no_such_module:new", 'Cannot import --loop "no_such_module:new": there is no module named "no_such_module"'),
        ("asyncio:new_event_lop", 'has no attribute "new_event_lop"; did you mean "new_event_loop"?'),
        ("sys:maxsize", "--loop sys:maxsize: this is "),
        ("builtins:dict", "--loop builtins:dict: the factory returned {}, which is not an event loop."),
    ],
)
def test_a_factory_that_is_none_is_explained(loop: str, message: str) -> None:
    with pytest.raises(StartupError) as caught:
        made_by(loop)
    assert message in str(caught.value)
