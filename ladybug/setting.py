"""What a setting is: a row of the table in `config.py`, and the kinds of value that rows are made of.

A `Setting` is a descriptor, so a row is at the same time the declaration of a typed attribute:

    class Config(Settings):
        port: Setting[int, int] = Setting(default=8000, kind=Whole(0, 65535), ...)

    Config.port     the row: name, flag, default, help
    config.port     the value, an int, validated whenever it is set
    Config(port=…)  the keyword; type checkers know it through `dataclass_transform`

A kind turns what was given into the value: text (command line, environment) or what a program passes. Rules for kinds:
raise ValueError with words that continue "port: ..."; take your own result again, unchanged; know nothing of the world
(files and environment are config.py's).
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, Self, TypeVar, overload

Value = TypeVar("Value")  # what config.<name> is
ValueOut = TypeVar("ValueOut", covariant=True)
Given = TypeVar("Given")  # what may be given for it
Number = TypeVar("Number", int, float)


class Kind(Protocol[ValueOut]):
    """Validates one kind of value."""

    @property
    def metavar(self) -> str:
        """What stands for the value in help texts: PORT, SECONDS, auto|on|off."""

    def __call__(self, given: object) -> ValueOut:
        """Return the value; raise ValueError for what cannot be one."""


class Setting(Generic[Value, Given]):
    """One row of the table. All arguments are keywords, as `dataclass_transform` asks of field specifiers.

    default     the value when nothing is given, or what `kind` makes that value from; leave it out: required
    kind        validates what is given
    help        one or a few sentences: what it does, unit, why this default
    group       the heading under which help and manual list it
    flag        the option, when it is not the name with dashes
    shared_env  a variable that other programs honour too, read when nothing is given
    shown       the default in words, when the value itself does not tell
    is_repeatable   the option may be given more than once, and the kind takes what was given all together
    kw_only     False: positional in `Config`, an argument on the command line
    """

    name: str

    def __init__(
        self,
        *,
        kind: Kind[Value],
        help: str,
        group: str,
        default: Given | None = None,
        flag: str | None = None,
        shared_env: str | None = None,
        shown: str | None = None,
        is_repeatable: bool = False,
        kw_only: bool = True,
    ) -> None:
        self.kind = kind
        self.help = help
        self.group = group
        self.default = default
        self.shared_env = shared_env
        self.is_argument = not kw_only
        self.is_repeatable = is_repeatable
        self._flag = flag
        self._shown = shown

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...
    def __get__(self, instance: object | None, owner: type) -> Self | Value:
        if instance is None:
            return self
        value: Value = instance.__dict__[self.name]
        return value

    def __set__(self, instance: object, given: Given) -> None:
        instance.__dict__[self.name] = self.kind(given)

    @property
    def is_switch(self) -> bool:
        """True for what is --name or --no-name on the command line."""
        kind: object = self.kind
        return isinstance(kind.kind if isinstance(kind, Maybe) else kind, Switch)

    @property
    def flag(self) -> str:
        """The option as it is typed: --log-level, --access-log/--no-access-log; APP for the argument."""
        if self.is_argument:
            return self.kind.metavar
        dashed = self._flag or "--" + self.name.replace("_", "-")
        return f"{dashed}/--no-{dashed[2:]}" if self.is_switch else dashed

    @property
    def env(self) -> str:
        """The variable that the command line reads."""
        return "LADYBUG_" + self.name.upper()

    @property
    def shown_default(self) -> str:
        """The default in words, for help and manual; empty where there is nothing to say."""
        if self._shown is not None:
            return self._shown
        if self.is_switch:
            return "on" if self.default else "off"
        return "" if self.default is None or self.default == "" else str(self.default)


class Text:
    def __init__(self, metavar: str = "TEXT") -> None:
        self.metavar = metavar

    def __call__(self, given: object) -> str:
        if not isinstance(given, str):
            raise ValueError(f"{given!r} is not text")
        return given


class Texts:
    """Any number of texts, or paths. In one text: one per line."""

    def __init__(self, metavar: str) -> None:
        self.metavar = metavar

    def __call__(self, given: object) -> list[str]:
        if given is None:
            return []
        if isinstance(given, str):
            given = [line for line in given.splitlines() if line.strip()]
        if not isinstance(given, Iterable):
            raise ValueError(f"{given!r} is not a list of texts")
        return [self.text(item) for item in given]

    def text(self, item: object) -> str:
        text = os.fspath(item) if isinstance(item, (str, os.PathLike)) else None
        if not isinstance(text, str) or not text:
            raise ValueError(f"{item!r} is not text")
        return text


class FilePath:
    """The path of a file, as text. Whether it is there is asked by whoever reads it."""

    metavar = "PATH"

    def __call__(self, given: object) -> str:
        path = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
        if not isinstance(path, str) or not path:
            raise ValueError(f"{given!r} is not a path")
        return path


class Directory:
    """The path of a directory, as text; "" is the working directory."""

    metavar = "DIRECTORY"

    def __call__(self, given: object) -> str:
        path = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
        if not isinstance(path, str):
            raise ValueError(f"{given!r} is not a path")
        return path


class Whole:
    """A whole number from `low` to `high`, both included."""

    def __init__(self, low: int, high: int | None = None, metavar: str = "INTEGER") -> None:
        self.low = low
        self.high = high
        self.metavar = metavar

    def __call__(self, given: object) -> int:
        number = _number(int, given) if isinstance(given, (int, str)) else None
        if number is None:
            raise ValueError(f"{given!r} is not a whole number")
        if number < self.low or (self.high is not None and number > self.high):
            limits = f"at least {self.low}" if self.high is None else f"from {self.low} to {self.high}"
            raise ValueError(f"{number} is out of range: it must be {limits}")
        return number


class Seconds:
    """A duration in seconds, 0 or more, fractions allowed."""

    metavar = "SECONDS"

    def __call__(self, given: object) -> float:
        seconds = _number(float, given) if isinstance(given, (int, float, str)) else None
        if seconds is None or not math.isfinite(seconds):
            raise ValueError(f"{given!r} is not a number of seconds")
        if seconds < 0:
            raise ValueError(f"{given!r} is out of range: it must be at least 0 seconds")
        return seconds


class Switch:
    """On or off."""

    metavar = ""
    ON = frozenset({"1", "true", "t", "yes", "y", "on"})
    OFF = frozenset({"0", "false", "f", "no", "n", "off"})

    def __call__(self, given: object) -> bool:
        if isinstance(given, bool):
            return given
        word = given.strip().lower() if isinstance(given, str) else ""
        if word not in self.ON | self.OFF:
            raise ValueError(f"{given!r} is neither on nor off")
        return word in self.ON


class OneOf(Generic[ValueOut]):
    """One of a few names. `answers` has what to tell who gives one that only others know."""

    def __init__(self, *names: ValueOut, answers: Mapping[str, str] | None = None) -> None:
        self.names = names
        self.answers = answers or {}
        self.metavar = "|".join(str(name) for name in names)

    def __call__(self, given: object) -> ValueOut:
        for name in self.names:
            if name == given:
                return name
        _answer(given, self.answers)
        raise ValueError(f"{given!r} is not one of {', '.join(str(name) for name in self.names)}")


class NameOrImport:
    """One of a few names, or an import string "module:attribute". `answers` as for OneOf."""

    def __init__(self, *names: str, answers: Mapping[str, str] | None = None) -> None:
        self.names = names
        self.answers = answers or {}
        self.metavar = "|".join([*names, "MODULE:FACTORY"])

    def __call__(self, given: object) -> str:
        if isinstance(given, str):
            module, _, attribute = given.partition(":")
            if given in self.names or (module and attribute):
                return given
        _answer(given, self.answers)
        raise ValueError(f"{given!r} is not one of {', '.join(self.names)} or an import string module:factory")


class Maybe(Generic[ValueOut]):
    """What another kind takes, or None."""

    def __init__(self, kind: Kind[ValueOut]) -> None:
        self.kind = kind
        self.metavar = kind.metavar

    def __call__(self, given: object) -> ValueOut | None:
        return None if given is None else self.kind(given)


class Computed(Generic[ValueOut]):
    """What a plain function makes of it."""

    def __init__(self, metavar: str, make: Callable[[object], ValueOut]) -> None:
        self.metavar = metavar
        self.make = make

    def __call__(self, given: object) -> ValueOut:
        return self.make(given)


class Headers:
    """Header fields: pairs of name and value, or lines "Name: value" (several in one text: one per line)."""

    metavar = "NAME:VALUE"

    def __call__(self, given: object) -> list[tuple[str, str]]:
        if isinstance(given, str):
            given = [line for line in given.splitlines() if line.strip()]
        if not isinstance(given, Iterable):
            raise ValueError(f"{given!r} is not a list of header fields")
        return [self.field(item) for item in given]

    def field(self, item: object) -> tuple[str, str]:
        """Check one field as RFC 9110 section 5 has it: a token, then visible characters, space and tab."""
        if isinstance(item, str):
            name, colon, value = item.partition(":")
            if not colon:
                raise ValueError(f'{item!r} is not of the form "Name: value"')
        else:
            name, value = self.pair(item)
        value = value.strip(" \t")
        if not name or not all(character in TOKEN for character in name):
            raise ValueError(f"{name!r} is not a header name")
        if name.lower() in SERVERS_OWN:
            raise ValueError(f"{name} depends on the response: the server says it where it is true")
        if any(
            (character < " " and character != "\t") or character == "\x7f" or character > "\xff" for character in value
        ):
            raise ValueError(f"the value of {name} holds a character that a header cannot carry: {value!r}")
        return name, value

    def pair(self, item: object) -> tuple[str, str]:
        if isinstance(item, (tuple, list)) and len(item) == 2:
            name, value = item
            if isinstance(name, str) and isinstance(value, str):
                return name, value
        raise ValueError(f"{item!r} is not a pair (name, value) of texts")


# What frames a message, or speaks of its connection.
SERVERS_OWN = frozenset({"connection", "content-length", "keep-alive", "trailer", "transfer-encoding", "upgrade"})
# RFC 9110, 5.6.2: token = 1*tchar
TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _answer(given: object, answers: Mapping[str, str]) -> None:
    if isinstance(given, str) and given in answers:
        raise ValueError(f"{given!r}: {answers[given]}")


def _number(make: Callable[[int | float | str], Number], given: int | float | str) -> Number | None:
    """The number that was given, as one or as text; None for anything else (a bool is no number here)."""
    try:
        return None if isinstance(given, bool) else make(given)
    except (ValueError, OverflowError):
        return None
