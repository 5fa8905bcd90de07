"""Logging: four loggers, two formatters, and the way to set them up.

    ladybug           parent; its handler writes to stderr, and never waits long for it (outlet.py)
    ladybug.error     what the server says (not only errors: the name is the one uvicorn and gunicorn gave it)
    ladybug.access    one record per response, to stdout; args are always the five of uvicorn.access:
                      (client_addr, method, full_path, http_version, status_code)
    ladybug.asgi      every ASGI message, at level trace (trace.py)

`LOGGING_CONFIG` is a `logging.config` dictionary of the same shape as uvicorn's, so that what is written for one (changed
formats, a file given with --log-config) works for the other. `plain_access` tells the compiled hot path whether the access
log is still exactly ours: then it writes the same lines itself, in batches, without a LogRecord each.

Rules: nothing here runs per request except what a changed access log asks for. No colour library: four escape codes.
"""

import http
import logging
import os
import sys
from collections.abc import Mapping
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TextIO

from ladybug.exceptions import ConfigError
from ladybug.outlet import Outlet

if TYPE_CHECKING:
    from ladybug.config import Config

TRACE = 5

LEVELS: Mapping[str, int] = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}

DEFAULT_FORMAT = "%(levelprefix)s %(message)s"
ACCESS_FORMAT = '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s'

# The values are logging.config's, hence Any.
LOGGING_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "default": {"()": "ladybug.log.DefaultFormatter", "fmt": DEFAULT_FORMAT, "use_colors": None},
        "access": {"()": "ladybug.log.AccessFormatter", "fmt": ACCESS_FORMAT, "use_colors": None},
    },
    "handlers": {
        "default": {"class": "ladybug.outlet.Outlet", "formatter": "default", "stream": "ext://sys.stderr"},
        "access": {"class": "logging.StreamHandler", "formatter": "access", "stream": "ext://sys.stdout"},
    },
    "loggers": {
        "ladybug": {"handlers": ["default"], "level": "INFO", "propagate": False},
        "ladybug.error": {"level": "INFO"},
        "ladybug.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
    },
}

# Programs change LOGGING_CONFIG in place; this is how they can be told from those that do not.
_PRISTINE = deepcopy(LOGGING_CONFIG)

RESET = "\x1b[0m"
BOLD = "\x1b[1m"
LEVEL_COLOURS: Mapping[int, str] = {
    TRACE: "\x1b[34m",  # blue
    logging.DEBUG: "\x1b[36m",  # cyan
    logging.INFO: "\x1b[32m",  # green
    logging.WARNING: "\x1b[33m",  # yellow
    logging.ERROR: "\x1b[31m",  # red
    logging.CRITICAL: "\x1b[91m",  # bright red
}
STATUS_COLOURS: Mapping[int, str] = {
    1: "\x1b[97m",  # bright white
    2: "\x1b[32m",
    3: "\x1b[33m",
    4: "\x1b[31m",
    5: "\x1b[91m",
}


def level_prefix(level: int, name: str, colours: bool) -> str:
    """ "INFO:    ": the level's name, a colon, and blanks up to the column where messages start."""
    blanks = " " * (8 - len(name))
    colour = LEVEL_COLOURS.get(level) if colours else None
    return f"{colour}{name}{RESET}:{blanks}" if colour else f"{name}:{blanks}"


def status_text(status: int, colours: bool) -> str:
    """ "200 OK"; a status without a phrase keeps the blank, as in a status line (RFC 9112, section 4)."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    colour = STATUS_COLOURS.get(status // 100) if colours else None
    return f"{colour}{status} {phrase}{RESET}" if colour else f"{status} {phrase}"


def wants_colours(stream: TextIO | None) -> bool:
    """Whether to colour what goes to `stream`, when nobody has said so. The rule is Python's own, for its tracebacks:
    NO_COLOR (no-color.org), then FORCE_COLOR (force-color.org), as soon as they are not empty; else if it is a terminal that
    can show them."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") != "dumb" and stream is not None and stream.isatty()


class DefaultFormatter(logging.Formatter):
    """Adds %(levelprefix)s to what formats may use. Colours: as told, or if stderr wants_colours."""

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: Literal["%", "{", "$"] = "%",
        use_colors: bool | None = None,
    ) -> None:
        super().__init__(fmt=fmt, datefmt=datefmt, style=style)
        self.use_colors = wants_colours(self.stream()) if use_colors is None else use_colors

    def stream(self) -> TextIO | None:
        """Where the records most likely go."""
        return sys.stderr

    def formatMessage(self, record: logging.LogRecord) -> str:
        # Other handlers see the same record: what is added goes on a copy.
        own = copy(record)
        own.levelprefix = level_prefix(record.levelno, record.levelname, self.use_colors)
        return super().formatMessage(own)


class AccessFormatter(DefaultFormatter):
    """Adds %(client_addr)s, %(request_line)s and %(status_code)s. Colours: as told, or if stdout wants_colours."""

    def stream(self) -> TextIO | None:
        return sys.stdout

    def formatMessage(self, record: logging.LogRecord) -> str:
        own = copy(record)
        if isinstance(record.args, tuple) and len(record.args) == 5:
            client_addr, method, full_path, http_version, status = record.args
            line = f"{method} {full_path} HTTP/{http_version}"
            own.client_addr = client_addr
            own.request_line = f"{BOLD}{line}{RESET}" if self.use_colors else line
            own.status_code = status_text(int(str(status)), self.use_colors)
        return super().formatMessage(own)


class PlainAccess(NamedTuple):
    """What the hot path needs to write access lines itself exactly as the default handler would."""

    stream: TextIO
    use_colors: bool


def access_wanted(logger: logging.Logger) -> bool:
    """False when whatever the access logger is told would be dropped: then nobody need tell it anything."""
    return logger.isEnabledFor(logging.INFO) and logger.hasHandlers()


def plain_access(logger: logging.Logger) -> PlainAccess | None:
    """Where access lines go when `logger` is still set up as `LOGGING_CONFIG` has it; None when somebody changed anything.

    Changed means: another handler, formatter or format, a filter, propagation, a subclass of any of them, another
    record factory. Then every record has to go through `logging`. Ask `access_wanted` first. Applications change
    loggers while they are imported and in their lifespan startup, so ask after both; asking costs about a microsecond
    and may be repeated by a timer.
    """
    if type(logger) is not logging.Logger or logger.filters or logger.propagate or len(logger.handlers) != 1:
        return None
    handler = logger.handlers[0]
    if type(handler) is not logging.StreamHandler or handler.filters or handler.level > logging.INFO:
        return None
    formatter = handler.formatter
    if type(formatter) is not AccessFormatter or formatter._fmt != ACCESS_FORMAT:
        return None
    if logging.getLogRecordFactory() is not logging.LogRecord:
        return None
    return PlainAccess(handler.stream, formatter.use_colors)


def configure_logging(config: "Config") -> None:
    """Set logging up for this process as the settings say. Workers inherit it through fork.

    log_config   applied first; None leaves logging as the program has set it up
    use_colors   given to the formatters "default" and "access" of a dictionary
    log_level    the level of ladybug.error, ladybug.access and ladybug.asgi, when given
    access_log   off takes the access logger its handlers, whoever gave them

    Raises ConfigError when log_config cannot be read or is refused by `logging.config`.
    """
    logging.addLevelName(TRACE, "TRACE")
    _apply(config.log_config, config.use_colors)
    if config.log_level is not None:
        for name in ("ladybug.error", "ladybug.access", "ladybug.asgi"):
            logging.getLogger(name).setLevel(config.log_level)
    if not config.access_log:
        access = logging.getLogger("ladybug.access")
        access.handlers = []
        access.propagate = False


def reopen_log_files() -> None:
    """Open every log file of this process anew: the old ones were moved away (logrotate). Call it where no record is on
    its way: in the main thread, between two steps of a loop."""
    # What logging.shutdown goes by: also handlers that only other handlers know.
    for reference in list(logging._handlerList):  # type: ignore[attr-defined]
        handler = reference()
        if isinstance(handler, logging.FileHandler):
            _reopen(handler)


def _reopen(handler: logging.FileHandler) -> None:
    if handler.stream is None or hasattr(handler, "reopenIfNeeded"):
        return  # nothing was logged yet (delay=True); or it looks for itself before each record (WatchedFileHandler)
    handler.acquire()
    try:
        # Whoever listens to the handler may log in turn, so nothing but the swap happens in between.
        old, handler.stream = handler.stream, handler._open()
    except OSError as error:
        logging.getLogger("ladybug.error").error(
            "%s cannot be opened anew, so what it was is written on: %s", handler.baseFilename, error.strerror
        )
    else:
        old.close()
    finally:
        handler.release()


def _apply(given: dict[str, Any] | str | None, use_colors: bool | None) -> None:
    if given is None:
        return
    if given == _PRISTINE:
        _apply_pristine(use_colors)
        return
    import logging.config

    settings = _with_colours(given, use_colors) if isinstance(given, dict) else _read(given)
    try:
        if isinstance(settings, dict):
            logging.config.dictConfig(settings)
        else:
            logging.config.fileConfig(settings, disable_existing_loggers=False)
    # What logging.config lets through is whatever handlers and formatters raise when they are made.
    except Exception as error:
        because = f" ({error.__cause__})" if error.__cause__ is not None else ""
        source = given if isinstance(given, str) else "the dictionary given"
        raise ConfigError(f"log_config: {source} is not a usable logging configuration: {error}{because}") from error
    _tell_of_silence()


def _tell_of_silence() -> None:
    """Warn of a configuration that was written for something else, and by which nothing will be heard of us."""
    error = logging.getLogger("ladybug.error")
    disabled = [name for name in ("ladybug.error", "ladybug.access") if logging.getLogger(name).disabled]
    if disabled:  # what dictConfig does, unless it is told not to, to loggers that are not named
        error.disabled = False
        error.warning(
            "log_config: it disables the loggers that it does not name, so nothing will be heard of %s: add"
            ' "disable_existing_loggers": false',
            " and ".join(disabled),
        )
        error.disabled = "ladybug.error" in disabled
    elif not error.hasHandlers():  # a warning goes to stderr then
        error.warning(
            "log_config: there is no handler for the loggers ladybug and ladybug.access, so nothing will be heard of them"
        )


def _apply_pristine(use_colors: bool | None) -> None:
    """What dictConfig makes of LOGGING_CONFIG, without `logging.config`, which would cost every process 0.7 MiB."""
    default = Outlet(sys.stderr)
    default.setFormatter(DefaultFormatter(DEFAULT_FORMAT, use_colors=use_colors))
    access = logging.StreamHandler(sys.stdout)
    access.setFormatter(AccessFormatter(ACCESS_FORMAT, use_colors=use_colors))
    for name, handlers, propagate in (
        ("ladybug", [default], False),
        ("ladybug.error", [], True),
        ("ladybug.access", [access], False),
    ):
        logger = logging.getLogger(name)
        logger.handlers = list[logging.Handler](handlers)
        logger.propagate = propagate
        logger.setLevel(logging.INFO)


def _with_colours(settings: dict[str, Any], use_colors: bool | None) -> dict[str, Any]:
    """The same settings with use_colors in our two formatters, as far as they are there; the caller's stay untouched."""
    formatters = settings.get("formatters")
    if use_colors is None or not isinstance(formatters, dict):
        return settings
    changed = {
        name: {**formatters[name], "use_colors": use_colors} for name in ("default", "access") if name in formatters
    }
    return {**settings, "formatters": {**formatters, **changed}}


def _read(path: str) -> dict[str, Any] | str:
    """The dictionary in a .json or .yaml file; the path itself of any other file, which is `fileConfig`'s ini."""
    from pathlib import Path

    try:
        text = Path(path).read_text(encoding="utf-8")
        if path.endswith(".json"):
            import json

            settings = json.loads(text)
        elif path.endswith((".yaml", ".yml")):
            settings = _yaml(path, text)
        else:
            return path
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"log_config: cannot read {path}: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"log_config: {path} holds no dictionary of logging.config")
    return settings


def _yaml(path: str, text: str) -> object:
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            f'log_config: reading {path} needs PyYAML: pip install PyYAML, or pip install "ladybug-asgi[standard]"'
        ) from None
    try:
        settings: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"log_config: cannot read {path}: {error}") from error
    return settings
