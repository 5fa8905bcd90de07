"""Logging: how lines look, what the settings do to the loggers, and when the access log may be written by hand."""

import io
import json
import logging
import logging.config
import logging.handlers
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from ladybug.config import Config
from ladybug.exceptions import ConfigError
from ladybug.log import (
    ACCESS_FORMAT,
    LOGGING_CONFIG,
    AccessFormatter,
    DefaultFormatter,
    PlainAccess,
    access_wanted,
    configure_logging,
    level_prefix,
    plain_access,
    reopen_log_files,
    status_text,
    wants_colours,
)

NAMES = ("ladybug", "ladybug.error", "ladybug.access")
ACCESS_ARGS = ("127.0.0.1:5000", "GET", "/a?b=c", "1.1", 200)
ACCESS_MESSAGE = '%s - "%s %s HTTP/%s" %d'


@pytest.fixture(autouse=True)
def _loggers_restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(one.level, one.propagate, one.handlers[:], one.filters[:]) for one in loggers]
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)
    for one, (level, propagate, handlers, filters) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.propagate, one.handlers, one.filters = propagate, handlers, filters


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


Capture = pytest.CaptureFixture[str]


def configure(**settings: Any) -> None:
    configure_logging(Config("module:app", **settings))


def log_access(status: int = 200) -> None:
    logging.getLogger("ladybug.access").info(ACCESS_MESSAGE, *ACCESS_ARGS[:4], status)


def test_messages_go_to_stderr_and_access_lines_to_stdout(capsys: Capture) -> None:
    configure()
    logging.getLogger("ladybug.error").info("Ready at %s", "last")
    logging.getLogger("ladybug.error").warning("Careful")
    logging.getLogger("ladybug.error").debug("unseen")
    log_access()
    out, err = capsys.readouterr()
    assert err == "INFO:     Ready at last\nWARNING:  Careful\n"
    assert out == 'INFO:     127.0.0.1:5000 - "GET /a?b=c HTTP/1.1" 200 OK\n'


def test_colours_when_told(capsys: Capture) -> None:
    configure(use_colors=True)
    logging.getLogger("ladybug.error").error("broken")
    log_access(404)
    out, err = capsys.readouterr()
    assert err == "\x1b[31mERROR\x1b[0m:    broken\n"
    assert out == (
        '\x1b[32mINFO\x1b[0m:     127.0.0.1:5000 - "\x1b[1mGET /a?b=c HTTP/1.1\x1b[0m" \x1b[31m404 Not Found\x1b[0m\n'
    )


def test_a_terminal_gets_colours_and_anything_else_none(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, terminal = os.openpty()
    with os.fdopen(leader, "rb", buffering=0), os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        assert DefaultFormatter().use_colors
        assert not AccessFormatter().use_colors
        assert not DefaultFormatter(use_colors=False).use_colors


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "on_terminal", "elsewhere"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": ""}, True, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_variables_ask_for_colours_or_forbid_them(
    variables: dict[str, str], on_terminal: bool, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (wants_colours(Terminal()), wants_colours(io.StringIO()), wants_colours(None)) == (
        on_terminal,
        elsewhere,
        elsewhere,
    )
    assert DefaultFormatter(use_colors=True).use_colors
    assert not DefaultFormatter(use_colors=False).use_colors


def test_a_process_without_standard_streams_can_still_be_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    configure()
    assert not DefaultFormatter().use_colors


@pytest.mark.parametrize(
    ("status", "text"), [(200, "200 OK"), (404, "404 Not Found"), (299, "299 "), (999, "999 "), (0, "0 ")]
)
def test_a_status_is_followed_by_its_phrase(status: int, text: str) -> None:
    assert status_text(status, colours=False) == text


def test_messages_start_in_one_column_whatever_the_level() -> None:
    assert level_prefix(logging.INFO, "INFO", colours=False) == "INFO:    "
    assert level_prefix(logging.CRITICAL, "CRITICAL", colours=False) == "CRITICAL:"
    assert level_prefix(15, "Level 15", colours=True) == "Level 15:"


def test_the_formatters_leave_the_record_as_it_was_for_other_handlers() -> None:
    record = logging.LogRecord("ladybug.access", logging.INFO, "", 0, ACCESS_MESSAGE, ACCESS_ARGS, None)
    before = set(vars(record))
    AccessFormatter(ACCESS_FORMAT).format(record)
    assert set(vars(record)) - before <= {"message", "asctime"}
    assert record.getMessage() == '127.0.0.1:5000 - "GET /a?b=c HTTP/1.1" 200'


def shape(name: str) -> list[object]:
    logger = logging.getLogger(name)
    handlers = [
        (
            type(handler),
            handler.stream.fileno() if isinstance(handler, logging.StreamHandler) else None,
            handler.level,
            type(handler.formatter),
            handler.formatter._fmt if handler.formatter else None,
            vars(handler.formatter).get("use_colors") if handler.formatter else None,
        )
        for handler in logger.handlers
    ]
    return [logger.level, logger.propagate, logger.disabled, handlers]


@pytest.mark.parametrize("use_colors", [None, True, False])
def test_the_short_way_to_the_default_equals_the_long_one(use_colors: bool | None) -> None:
    configure(use_colors=use_colors)
    short = [shape(name) for name in NAMES]
    # One more key, so that it is no longer the pristine dictionary and goes through logging.config.
    configure(use_colors=use_colors, log_config={**LOGGING_CONFIG, "filters": {}})
    assert [shape(name) for name in NAMES] == short


def test_levels(capsys: Capture) -> None:
    configure(log_level="trace", access_log=True)
    logging.getLogger("ladybug.error").log(5, "seen")
    assert capsys.readouterr().err == "TRACE:    seen\n"
    configure(log_level="warning")
    log_access()
    assert capsys.readouterr().out == ""


def test_access_log_off_takes_the_access_logger_its_handlers(capsys: Capture) -> None:
    configure(access_log=False)
    log_access()
    assert capsys.readouterr() == ("", "")
    assert not logging.getLogger("ladybug.access").hasHandlers()


def test_log_config_none_leaves_logging_alone() -> None:
    configure()
    before = [shape(name) for name in NAMES]
    handler = logging.NullHandler()
    logging.getLogger("ladybug").handlers = [handler]
    configure(log_config=None)
    assert logging.getLogger("ladybug").handlers == [handler]
    assert [shape(name) for name in NAMES[1:]] == before[1:]


def changed() -> dict[str, Any]:
    settings = deepcopy(LOGGING_CONFIG)
    settings["formatters"]["default"]["fmt"] = "mine %(levelprefix)s %(message)s"
    settings["loggers"]["ladybug.error"]["level"] = "DEBUG"
    return settings


INI = """
[loggers]
keys=root,ladybug
[handlers]
keys=console
[formatters]
keys=mine
[logger_root]
handlers=
[logger_ladybug]
qualname=ladybug
handlers=console
propagate=0
[handler_console]
class=StreamHandler
formatter=mine
args=(sys.stderr,)
[formatter_mine]
format=mine %(levelname)s %(message)s
"""


def as_dictionary(_: Path) -> dict[str, Any]:
    return changed()


def as_json(directory: Path) -> Path:
    path = directory / "log.json"
    path.write_text(json.dumps(changed()))
    return path


def as_yaml(directory: Path) -> Path:
    yaml = pytest.importorskip("yaml")
    path = directory / "log.yaml"
    path.write_text(yaml.safe_dump(changed()))
    return path


def as_ini(directory: Path) -> Path:
    path = directory / "log.ini"
    path.write_text(INI)
    return path


@pytest.mark.parametrize("make", [as_dictionary, as_json, as_yaml, as_ini])
def test_log_config_is_taken_in_every_form(make: Callable[[Path], Any], tmp_path: Path, capsys: Capture) -> None:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        configure(log_config=make(tmp_path))
    finally:
        root.setLevel(level)
        root.handlers = handlers
    logging.getLogger("ladybug.error").warning("hello")
    assert re.fullmatch("mine WARNING:? +hello\n", capsys.readouterr().err)


def test_the_level_of_a_log_config_holds_unless_one_is_given() -> None:
    configure(log_config=changed())
    assert logging.getLogger("ladybug.error").level == logging.DEBUG
    configure(log_config=changed(), log_level="error")
    assert logging.getLogger("ladybug.error").level == logging.ERROR


def test_colours_reach_a_dictionary_without_changing_it(capsys: Capture) -> None:
    settings = changed()
    configure(log_config=settings, use_colors=True)
    logging.getLogger("ladybug.error").info("hello")
    assert capsys.readouterr().err == "mine \x1b[32mINFO\x1b[0m:     hello\n"
    assert settings == changed()


def test_changing_the_exported_dictionary_in_place_works_as_with_uvicorn(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(LOGGING_CONFIG["formatters"]["access"], "fmt", "%(asctime)s %(client_addr)s %(status_code)s")
    configure()
    log_access()
    assert capsys.readouterr().out.endswith(" 127.0.0.1:5000 200 OK\n")
    assert plain_access(logging.getLogger("ladybug.access")) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.json", "{", "cannot read .*log.json: Expecting property name"),
        ("log.json", "[]", "log.json holds no dictionary of logging.config"),
        ("log.yml", "a: [", "cannot read .*log.yml: while parsing"),
        ("log.ini", "[nothing]", "log.ini is not a usable logging configuration"),
        ("log.json", '{"version": 1, "handlers": {"x": {"class": "no.Such"}}}', r"configure handler 'x' \(.*'no.Such'"),
    ],
)
def test_an_unusable_log_config_is_an_error_with_its_cause(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"(?s)^log_config: .*{message}"):
        configure(log_config=tmp_path / name)


def test_the_cause_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "log.yml").write_text("a: [")
    with pytest.raises(ConfigError) as caught:
        configure(log_config=tmp_path / "log.yml")
    assert str(caught.value).count("cannot read") == 1


FOR_UVICORN = """
from ladybug.config import Config
from ladybug.log import LOGGING_CONFIG, configure_logging
loggers = {"uvicorn": LOGGING_CONFIG["loggers"]["ladybug"]}
configure_logging(Config("m:a", log_config={**LOGGING_CONFIG, "loggers": loggers}))
"""


def test_a_log_config_for_another_server_is_told_of() -> None:
    """In a process of its own: here pytest listens to everything."""
    done = subprocess.run([sys.executable, "-c", FOR_UVICORN], capture_output=True, text=True, check=True, timeout=60)
    assert "no handler for the loggers ladybug and ladybug.access" in done.stderr


ROOT_ONLY = """
import logging
from ladybug.config import Config
from ladybug.log import configure_logging
logging.getLogger("ladybug.error")
handlers = {"one": {"class": "logging.StreamHandler"}} if HANDLERS else {}
configure_logging(Config("m:a", log_config={"version": 1, "handlers": handlers, "root": {"handlers": list(handlers)}}))
logging.getLogger("ladybug.error").error("not heard")
"""


@pytest.mark.parametrize("handlers", [True, False])
def test_a_log_config_that_disables_our_loggers_is_told_of(handlers: bool) -> None:
    code = f"HANDLERS = {handlers}\n{ROOT_ONLY}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    (line,) = done.stderr.splitlines()
    assert "nothing will be heard of ladybug.error" in line
    assert line.endswith('add "disable_existing_loggers": false')


def test_a_log_config_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^log_config: cannot read .*nowhere\.ini"):
        configure(log_config=tmp_path / "nowhere.ini")


def test_yaml_without_pyyaml_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.yaml").write_text("version: 1")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(
        ConfigError, match=r"needs PyYAML: pip install PyYAML, or pip install \"ladybug-asgi\[standard\]\""
    ):
        configure(log_config=tmp_path / "log.yaml")


def access_logger() -> logging.Logger:
    return logging.getLogger("ladybug.access")


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


@pytest.mark.parametrize("wrapped", [False, True], ids=["on a logger", "behind another handler"])
def test_log_files_are_opened_anew(log_file: Path, wrapped: bool) -> None:
    handler = logging.FileHandler(log_file)
    logger = logging.getLogger("ladybug.error")
    logger.addHandler(logging.handlers.MemoryHandler(0, target=handler) if wrapped else handler)
    logger.error("first")
    moved = log_file.rename(log_file.with_suffix(".1"))
    old = handler.stream
    assert old is not None
    reopen_log_files()
    logger.error("second")
    assert (moved.read_text(), log_file.read_text()) == ("first\n", "second\n")
    assert old is not None and old.closed
    handler.close()


def test_a_log_file_that_nothing_was_written_to_stays_unopened(log_file: Path) -> None:
    handler = logging.FileHandler(log_file, delay=True)
    reopen_log_files()
    assert not log_file.exists()
    handler.close()


def test_a_log_file_that_cannot_be_opened_anew_goes_on(log_file: Path, capsys: Capture) -> None:
    directory = log_file.parent / "logs"
    directory.mkdir()
    handler = logging.FileHandler(directory / "server.log")
    logger = logging.getLogger("ladybug.error")
    logger.addHandler(handler)
    moved = directory.rename(log_file.parent / "moved") / "server.log"
    reopen_log_files()
    logger.error("goes on")
    assert moved.read_text().splitlines() == [
        f"{directory / 'server.log'} cannot be opened anew, so what it was is written on: No such file or directory",
        "goes on",
    ]
    handler.close()


def test_the_default_access_log_is_plain() -> None:
    configure(use_colors=True)
    assert plain_access(access_logger()) == PlainAccess(sys.stdout, use_colors=True)
    configure(log_config={**LOGGING_CONFIG, "filters": {}})
    assert plain_access(access_logger()) == PlainAccess(sys.stdout, use_colors=False)


class OwnHandler(logging.StreamHandler):  # type: ignore[type-arg]
    pass


class OwnFormatter(AccessFormatter):
    pass


class OwnRecord(logging.LogRecord):
    pass


def own_handler() -> None:
    handler = OwnHandler()
    handler.setFormatter(AccessFormatter(ACCESS_FORMAT))
    access_logger().handlers = [handler]


CHANGES: dict[str, Callable[[], object]] = {
    "another handler": lambda: access_logger().addHandler(logging.NullHandler()),
    "no handler": lambda: access_logger().handlers.clear(),
    "a handler of its own class": own_handler,
    "a formatter of its own class": lambda: access_logger().handlers[0].setFormatter(OwnFormatter(ACCESS_FORMAT)),
    "another format": lambda: access_logger().handlers[0].setFormatter(AccessFormatter("%(message)s")),
    "no formatter": lambda: access_logger().handlers[0].setFormatter(None),
    "a filter on the logger": lambda: access_logger().addFilter(lambda record: True),
    "a filter on the handler": lambda: access_logger().handlers[0].addFilter(lambda record: True),
    "a level on the handler": lambda: access_logger().handlers[0].setLevel(logging.WARNING),
    "propagation": lambda: setattr(access_logger(), "propagate", True),
    "another record factory": lambda: logging.setLogRecordFactory(OwnRecord),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_an_access_log_that_somebody_changed_is_not_plain(change: Callable[[], object]) -> None:
    configure()
    assert plain_access(access_logger()) is not None
    change()
    assert plain_access(access_logger()) is None


def test_an_access_log_that_drops_everything_is_not_wanted() -> None:
    configure()
    assert access_wanted(access_logger())
    configure(log_level="warning")
    assert not access_wanted(access_logger())
    configure(access_log=False)
    assert not access_wanted(access_logger())
