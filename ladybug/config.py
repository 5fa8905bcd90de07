"""The settings: one table, the body of `Config`, is the source of everything that is known about a setting.

A row of it (`setting.Setting`) holds type, default, validation and words of one setting. Its name gives the keyword of
`Config` and `ladybug.run`, the flag and the environment variable; `cli.py` builds the command from the rows and
`scripts/settings_manual.py` the manual. Adding a setting is adding a row and nothing else.

Where a value comes from: the flag, then LADYBUG_<NAME> (both read by cli.py only), then WEB_CONCURRENCY or
FORWARDED_ALLOW_IPS (read here, so that `ladybug.run` and embedded servers heed them too, as with uvicorn), then the
default.

Rule: a setting without a feature behind it does not enter the table. Who types an option of another server is answered by
`hints.py`.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any, Literal, dataclass_transform

from ladybug.env_file import load_env_file
from ladybug.exceptions import ConfigError
from ladybug.hints import INTERFACES_OF_OTHERS, LOOPS_OF_OTHERS, WS_OF_UVICORN, unknown_setting
from ladybug.log import LEVELS, LOGGING_CONFIG
from ladybug.setting import (
    Computed,
    Directory,
    FilePath,
    Headers,
    Maybe,
    NameOrImport,
    OneOf,
    Seconds,
    Setting,
    Switch,
    Text,
    Texts,
    Whole,
)

# "module:attribute", or the ASGI application itself (or, with factory, what makes it).
App = str | Callable[..., object]
Interface = Literal["auto", "asgi3", "asgi2"]
Lifespan = Literal["auto", "on", "off"]
Poller = Literal["auto", "epoll", "portable"]
WebSocket = Literal["auto", "none"]
# A dictionary as logging.config defines it, or a file that holds one.
LogConfig = dict[str, Any] | str | os.PathLike[str] | None
HeaderList = list[tuple[str, str]]

BINDING = "Address"
APPLICATION = "Application"
PROCESSES = "Processes"
DEVELOPMENT = "Development"
IMPLEMENTATION = "Implementation"
WEBSOCKET = "WebSocket"
LOGGING = "Logging"
HEADERS = "Proxies and headers"
LIMITS = "Limits"
TIMEOUTS = "Timeouts"


def _app(given: object) -> App:
    if isinstance(given, str) or callable(given):
        return given
    raise ValueError(f'{given!r} is neither an import string "module:attribute" nor a callable')


def _workers(given: object) -> int:
    if given is None:
        return 1
    if given == "auto":
        from ladybug.cpus import usable_cpus

        return usable_cpus()
    try:
        return Whole(0)(given)
    except ValueError as error:
        raise ValueError(f"{error}, or auto" if "not a whole" in str(error) else str(error)) from None


def _user(given: object) -> str:
    """The name of a user or group, or its number as text."""
    return given if isinstance(given, str) and given else str(Whole(0)(given))


def _fds(given: object) -> list[int]:
    if given is None:
        return []
    if isinstance(given, str):
        given = given.split()
    number = Whole(0)
    return [number(fd) for fd in given] if isinstance(given, Iterable) else [number(given)]


def _umask(given: object) -> int:
    """As umask(1) takes it: octal digits. A program gives the number."""
    try:
        mask = int(given, 8) if isinstance(given, str) else Whole(0)(given)
    except ValueError:
        raise ValueError(f"{given!r} is not an octal number such as 027") from None
    if not 0 <= mask <= 0o777:
        raise ValueError(f"{mask:o} is out of range: it must be from 0 to 777")
    return mask


def _log_level(given: object) -> int | None:
    if given is None:
        return None
    if isinstance(given, str) and given.lower() in LEVELS:
        return LEVELS[given.lower()]
    try:
        return Whole(0)(given)
    except ValueError:
        raise ValueError(f"{given!r} is not one of {', '.join(LEVELS)}, nor a number") from None


def _log_config(given: object) -> dict[str, Any] | str | None:
    if given is None or isinstance(given, dict):
        return given
    return FilePath()(given)


def _allow_ips(given: object) -> str:
    if given is None:
        return "127.0.0.1,::1"
    items = given.split(",") if isinstance(given, str) else given
    hosts: list[str] = []
    for item in items if isinstance(items, Iterable) else [items]:
        if not isinstance(item, str):
            raise ValueError(f"{given!r} is neither text nor a list of texts")
        hosts.append(item.strip())
    if hosts not in ([], [""], ["*"]):  # nobody, everybody
        for host in hosts:
            _check_proxy(host)
    return ",".join(hosts)


def _check_proxy(host: str) -> None:
    """Raise ValueError for what is meant to be an address or a network, and is none.

    Other words are taken, as uvicorn takes them: the path of a unix socket, or what a test client calls itself.
    """
    if len(host.split()) != 1:
        raise ValueError(f"{host!r} is no address; between two of them is one comma")
    looks_like_one = ":" in host or "*" in host or set(host) <= set("0123456789.") or "/" in host[1:]
    if host != "*" and looks_like_one and not host.startswith("/"):
        from ipaddress import ip_network

        ip_network(host)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(Setting,))
class Table:
    """The machine under `Config`, whose body is the table: takes keywords, fills in what was not given.

    Type checkers make `Config.__init__` from the rows (PEP 681); at run time it is this one.
    """

    def __init__(self, app: object, **given: object) -> None:
        for name in given:
            if not isinstance(vars(Config).get(name), Setting):
                raise ConfigError(unknown_setting(name, [row.name for row in SETTINGS]))
        # First, because the file may hold WEB_CONCURRENCY or FORWARDED_ALLOW_IPS.
        self.names_from_env_file = frozenset[str]()
        if given.get("env_file") is not None:
            self.names_from_env_file = load_env_file(FilePath()(given["env_file"]))
        # What was said, and not filled in: some settings exclude others only if somebody has asked for both.
        self.given = frozenset(name for name, value in given.items() if value is not None)
        given["app"] = app
        for row in SETTINGS:
            self._set(row, given.get(row.name, row.default))
        if {"uds", "fd"} <= self.given:
            raise ConfigError("uds and fd both say where to listen: give one of them")

    def _set(self, row: Setting[Any, Any], value: object) -> None:
        source = row.name
        # None is "not given" where a shared variable stands behind a setting: so programs written for uvicorn pass it.
        if value is None and row.shared_env is not None and os.environ.get(row.shared_env):
            source, value = row.shared_env, os.environ[row.shared_env]
        try:
            setattr(self, row.name, value)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from None


class Config(Table):
    """Everything a server can be told, validated. Raises ConfigError for unknown names and impossible values.

    `Config("module:attribute", port=8080)` or `Config(app, port=8080)`. Durations are seconds, sizes bytes. What each
    setting means, and its default, is in the row that declares it and in docs/settings.md.
    """

    app: Setting[App, App] = Setting(
        kind=Computed("APP", _app),
        group=APPLICATION,
        help="The application: where to import it from, as module:attribute (dots allowed on both sides).",
        kw_only=False,
    )
    factory: Setting[bool, bool] = Setting(
        default=False,
        kind=Switch(),
        group=APPLICATION,
        help="APP is a function that takes no arguments and returns the application.",
    )
    app_dir: Setting[str | None, str | os.PathLike[str] | None] = Setting(
        default="",
        kind=Maybe(Directory()),
        group=APPLICATION,
        help="Look for APP in this directory first.",
        shown="the working directory",
    )
    interface: Setting[Interface, Interface] = Setting(
        default="auto",
        kind=OneOf[Interface]("auto", "asgi3", "asgi2", answers=INTERFACES_OF_OTHERS),
        group=APPLICATION,
        help="The application's interface; auto tells ASGI 2 and 3 apart by looking at it.",
    )
    lifespan: Setting[Lifespan, Lifespan] = Setting(
        default="auto",
        kind=OneOf[Lifespan]("auto", "on", "off"),
        group=APPLICATION,
        help="Lifespan events: on demands that the application handles them, auto does without if it does not.",
    )
    env_file: Setting[str | None, str | os.PathLike[str] | None] = Setting(
        default=None,
        kind=Maybe(FilePath()),
        group=APPLICATION,
        help="Put the variables of this .env file into the environment of the application, unless they are set already."
        " Needs python-dotenv. LADYBUG_ variables in it come too late: the command line has been read by then.",
    )
    root_path: Setting[str, str] = Setting(
        default="",
        kind=Text("PATH"),
        group=APPLICATION,
        help="The path under which a proxy publishes the application, which the proxy takes off: scope path = root path"
        " + path of the request.",
    )

    host: Setting[str, str] = Setting(
        default="127.0.0.1",
        kind=Text("HOST"),
        group=BINDING,
        help="Listen on this address or name; every address that a name stands for is bound. 0.0.0.0 is all of IPv4,"
        " :: is IPv6 and IPv4.",
    )
    port: Setting[int, int] = Setting(
        default=8000,
        kind=Whole(0, 65535, metavar="PORT"),
        group=BINDING,
        help="Listen on this port; 0 takes one that is free.",
    )
    uds: Setting[str | None, str | os.PathLike[str] | None] = Setting(
        default=None,
        kind=Maybe(FilePath()),
        group=BINDING,
        help="Listen on a unix domain socket at this path instead.",
    )
    fd: Setting[list[int], int | Iterable[int] | None] = Setting(
        default=None,
        kind=Computed("NUMBER", _fds),
        group=BINDING,
        help="Listen on the socket that is inherited as this file descriptor instead; may be given more than once. The"
        " sockets of a systemd socket unit (LISTEN_FDS) are found without it.",
        is_repeatable=True,
        shown="",
    )
    backlog: Setting[int, int] = Setting(
        default=2048,
        kind=Whole(1, metavar="CONNECTIONS"),
        group=BINDING,
        help="How many connections the kernel keeps waiting on each listener.",
    )

    workers: Setting[int, int | Literal["auto"] | None] = Setting(
        default=None,
        kind=Computed("NUMBER|auto", _workers),
        group=PROCESSES,
        help="Worker processes under one master; auto is one for each CPU that affinity and control groups allow;"
        " 0 serves in this process, without a master.",
        shared_env="WEB_CONCURRENCY",
        shown="1",
    )
    preload: Setting[bool, bool] = Setting(
        default=False,
        kind=Switch(),
        group=PROCESSES,
        help="Import the application once, in a process of which workers are forked: they share its memory, and start at"
        " once. A reload imports it anew. Lifespan runs in each worker. Linux only.",
    )
    limit_max_requests: Setting[int | None, int | None] = Setting(
        default=None,
        kind=Maybe(Whole(0, metavar="REQUESTS")),
        group=PROCESSES,
        help="Replace a worker after this many requests; its successor is ready before it goes. With --workers 0 the server"
        " ends, with exit code 0. 0 is off.",
        shown="never",
    )
    limit_max_requests_jitter: Setting[int, int] = Setting(
        default=0,
        kind=Whole(0, metavar="REQUESTS"),
        group=PROCESSES,
        help="Add up to this many to each worker's --limit-max-requests, at random, so that not all go at once.",
    )
    control_socket: Setting[str, str | os.PathLike[str]] = Setting(
        default="auto",
        kind=Computed("PATH|auto|off", FilePath()),
        group=PROCESSES,
        help="Where `ladybug ctl` reaches the master: a unix socket at this path, open to this user only. auto is a name of"
        " its own in a private directory, where `ladybug ctl` looks by itself; off is none.",
    )
    limit_worker_lifetime: Setting[float | None, float | None] = Setting(
        default=None,
        kind=Maybe(Seconds()),
        group=PROCESSES,
        help="Replace a worker that has served for this long; its successor is ready before it goes. One at a time."
        " 0 is off.",
        shown="never",
    )
    limit_worker_lifetime_jitter: Setting[float, float] = Setting(
        default=0,
        kind=Seconds(),
        group=PROCESSES,
        help="Add up to this much to each worker's --limit-worker-lifetime, at random.",
    )
    limit_worker_rss: Setting[int | None, int | None] = Setting(
        default=None,
        kind=Maybe(Whole(1, metavar="BYTES")),
        group=PROCESSES,
        help="Replace a worker that holds more memory than this (resident set) for five seconds on end; its successor is"
        " ready before it goes. One at a time.",
        shown="never",
    )
    pid_file: Setting[str | None, str | os.PathLike[str] | None] = Setting(
        default=None,
        kind=Maybe(FilePath()),
        group=PROCESSES,
        help="Write the process id to this file, and remove it at the end. Refused while the file belongs to a server that"
        " is running; one that was left behind is replaced.",
    )
    user: Setting[str | None, str | int | None] = Setting(
        default=None,
        kind=Maybe(Computed("NAME|ID", _user)),
        group=PROCESSES,
        help="Run the application as this user, with all groups of the user. Needs root, which the master keeps.",
    )
    group: Setting[str | None, str | int | None] = Setting(
        default=None,
        kind=Maybe(Computed("NAME|ID", _user)),
        group=PROCESSES,
        help="Run the application as this group instead of the user's own. Needs root, which the master keeps.",
    )
    umask: Setting[int | None, str | int | None] = Setting(
        default=None,
        kind=Maybe(Computed("OCTAL", _umask)),
        group=PROCESSES,
        help="Take these permissions from all files that the server and the application make, the unix socket's path"
        " included. In programs a number, 0o027.",
        shown="as inherited; the unix socket is open to all",
    )

    reload: Setting[bool, bool] = Setting(
        default=False,
        kind=Switch(),
        group=DEVELOPMENT,
        help="Restart the application when its files change. For development: one worker, and a stop waits half a second"
        " for what runs. Needs watchfiles.",
    )
    reload_dirs: Setting[list[str], str | Iterable[str] | None] = Setting(
        default=None,
        kind=Texts("DIRECTORY"),
        group=DEVELOPMENT,
        help="Watch this directory and all below it; may be given more than once.",
        flag="--reload-dir",
        shown="the working directory",
        is_repeatable=True,
    )
    reload_includes: Setting[list[str], str | Iterable[str] | None] = Setting(
        default=None,
        kind=Texts("PATTERN"),
        group=DEVELOPMENT,
        help="Watch files whose name matches this pattern too; may be given more than once. *.py is always among them,"
        " unless it is excluded. A directory is watched as with --reload-dir.",
        flag="--reload-include",
        shown="*.py",
        is_repeatable=True,
    )
    reload_excludes: Setting[list[str], str | Iterable[str] | None] = Setting(
        default=None,
        kind=Texts("PATTERN"),
        group=DEVELOPMENT,
        help="Do not watch files or directories whose name matches this pattern; may be given more than once. The default"
        " patterns are always among them, unless they are included.",
        flag="--reload-exclude",
        shown=".*, .py[cod], .sw.*, ~*",
        is_repeatable=True,
    )
    reload_delay: Setting[float, float] = Setting(
        default=0.25,
        kind=Seconds(),
        group=DEVELOPMENT,
        help="Collect changes that follow each other for at most this long before the restart.",
    )

    loop: Setting[str, str] = Setting(
        default="auto",
        kind=NameOrImport("auto", "asyncio", "uvloop", answers=LOOPS_OF_OTHERS),
        group=IMPLEMENTATION,
        help="The event loop of the application; auto is uvloop where it is installed. MODULE:FACTORY is imported and"
        " called without arguments for a loop.",
    )
    poller: Setting[Poller, Poller] = Setting(
        default="auto",
        kind=OneOf[Poller]("auto", "epoll", "portable"),
        group=IMPLEMENTATION,
        help="How the server waits for its connections; auto is epoll where there is one. portable is for other systems.",
    )

    ws: Setting[WebSocket, WebSocket] = Setting(
        default="auto",
        kind=OneOf[WebSocket]("auto", "none", answers=WS_OF_UVICORN),
        group=WEBSOCKET,
        help="Serve WebSockets; with none a handshake is an ordinary GET.",
    )
    ws_max_size: Setting[int, int] = Setting(
        default=16_777_216,
        kind=Whole(1, metavar="BYTES"),
        group=WEBSOCKET,
        help="The largest message a client may send, decompressed; a larger one closes the WebSocket with code 1009.",
    )
    ws_max_queue: Setting[int, int] = Setting(
        default=32,
        kind=Whole(1, metavar="MESSAGES"),
        group=WEBSOCKET,
        help="How many messages are received ahead of the application; then reading stops until it takes some.",
    )
    ws_ping_interval: Setting[float, float] = Setting(
        default=20,
        kind=Seconds(),
        group=WEBSOCKET,
        help="Send a ping this long after the last one was answered. 0 is off.",
    )
    ws_ping_timeout: Setting[float, float] = Setting(
        default=20,
        kind=Seconds(),
        group=WEBSOCKET,
        help="Close a WebSocket, with code 1011, whose client has not answered a ping for this long. 0 is off.",
    )
    ws_per_message_deflate: Setting[bool, bool] = Setting(
        default=True,
        kind=Switch(),
        group=WEBSOCKET,
        help="Compress messages (permessage-deflate) when the client offers it.",
    )

    log_level: Setting[int | None, int | str | None] = Setting(
        default=None,
        kind=Maybe(Computed("|".join(LEVELS), _log_level)),
        group=LOGGING,
        help="The least important messages to log, as a name or number. trace logs all ASGI messages, without contents and"
        " header fields.",
        shown="info, or what --log-config says",
    )
    access_log: Setting[bool, bool] = Setting(
        default=True,
        kind=Switch(),
        group=LOGGING,
        help="Log one line for each response.",
    )
    use_colors: Setting[bool | None, bool | None] = Setting(
        default=None,
        kind=Maybe(Switch()),
        group=LOGGING,
        help="Colour the log. Where this is not said, NO_COLOR=1 and FORCE_COLOR=1 are heeded.",
        shown="on if it goes to a terminal",
    )
    log_config: Setting[dict[str, Any] | str | None, LogConfig] = Setting(
        default=LOGGING_CONFIG,
        kind=Computed("PATH", _log_config),
        group=LOGGING,
        help="Set logging up from this file: .json and .yaml for logging.config.dictConfig, anything else is an ini file"
        " for fileConfig. A program may give the dictionary, or None to leave logging alone.",
        shown="ladybug.log.LOGGING_CONFIG",
    )

    proxy_headers: Setting[bool, bool] = Setting(
        default=True,
        kind=Switch(),
        group=HEADERS,
        help="Believe X-Forwarded-Proto and X-Forwarded-For, when they come from a trusted proxy.",
    )
    forwarded_allow_ips: Setting[str, str | list[str] | None] = Setting(
        default=None,
        kind=Computed("HOSTS", _allow_ips),
        group=HEADERS,
        help="The trusted proxies: addresses and networks (CIDR), separated by commas; * trusts everybody. Names are not"
        " looked up.",
        shared_env="FORWARDED_ALLOW_IPS",
        shown="127.0.0.1,::1",
    )
    headers: Setting[HeaderList, Iterable[tuple[str, str] | str]] = Setting(
        default=(),
        kind=Headers(),
        group=HEADERS,
        help="Add this field to every response; may be given more than once.",
        flag="--header",
        shown="",
        is_repeatable=True,
    )
    server_header: Setting[bool, bool] = Setting(
        default=True,
        kind=Switch(),
        group=HEADERS,
        help="Send a Server field with responses.",
    )
    date_header: Setting[bool, bool] = Setting(
        default=True,
        kind=Switch(),
        group=HEADERS,
        help="Send a Date field with responses.",
    )

    limit_concurrency: Setting[int | None, int | None] = Setting(
        default=None,
        kind=Maybe(Whole(1, metavar="NUMBER")),
        group=LIMITS,
        help="Answer 503 to requests while a worker has this many connections or running requests.",
        shown="none",
    )
    limit_request_line: Setting[int, int] = Setting(
        default=16_384,
        kind=Whole(1, metavar="BYTES"),
        group=LIMITS,
        help="The longest request line; longer ones are answered with 414.",
    )
    limit_request_fields: Setting[int, int] = Setting(
        default=128,
        kind=Whole(1, 128, metavar="NUMBER"),
        group=LIMITS,
        help="The most header fields in a request, at most 128; more are answered with 431.",
    )
    limit_request_fields_size: Setting[int, int] = Setting(
        default=65_536,
        kind=Whole(1, metavar="BYTES"),
        group=LIMITS,
        help="The most bytes in all header fields of a request together; more are answered with 431.",
    )
    limit_request_body: Setting[int | None, int | None] = Setting(
        default=None,
        kind=Maybe(Whole(0, metavar="BYTES")),
        group=LIMITS,
        help="The largest request body; larger ones are answered with 413.",
        shown="none",
    )

    timeout_keep_alive: Setting[float, float] = Setting(
        default=75,
        kind=Seconds(),
        group=TIMEOUTS,
        help="Close a connection that has waited this long for its next request. Not uvicorn's 5 on purpose: load"
        " balancers keep idle connections for 60 s, and a server that closes first loses the race with their next"
        " request, which becomes a 502.",
    )
    timeout_request_head: Setting[float, float] = Setting(
        default=30,
        kind=Seconds(),
        group=TIMEOUTS,
        help="Answer 408 to a request whose head is not complete after this long, and close a new connection that stays"
        " silent. 0 is off.",
    )
    timeout_request_body: Setting[float, float] = Setting(
        default=30,
        kind=Seconds(),
        group=TIMEOUTS,
        help="Give a request up when no byte of its body has come for this long. 0 is off.",
    )
    timeout_send: Setting[float, float] = Setting(
        default=60,
        kind=Seconds(),
        group=TIMEOUTS,
        help="Close a connection whose client has not taken a byte of the response for this long. 0 is off.",
    )
    timeout_graceful_shutdown: Setting[float, float] = Setting(
        default=30,
        kind=Seconds(),
        group=TIMEOUTS,
        help="How long running requests may take to finish after a stop signal; then they are cancelled. Not unlimited"
        " as with uvicorn, on purpose: one open stream would block the stop for ever.",
    )
    shutdown_delay: Setting[float, float] = Setting(
        default=0,
        kind=Seconds(),
        group=TIMEOUTS,
        help="How long whoever has to go still accepts connections, and closes each after one response: after a stop signal,"
        " so that load balancers notice before they are refused (a second signal ends the wait), and before a worker leaves"
        " that was replaced, so that no client's next request meets the end of a connection that idles.",
    )
    timeout_worker_boot: Setting[float, float] = Setting(
        default=120,
        kind=Seconds(),
        group=TIMEOUTS,
        help="Give a worker up that has not imported and started the application after this long. 0 is off.",
    )
    timeout_worker_healthcheck: Setting[float, float] = Setting(
        default=30,
        kind=Seconds(),
        group=TIMEOUTS,
        help="Replace a worker whose event loop has not run for this long, but never before 4 s. After 1 s the others get"
        " its connections, after 4 s its stacks are logged. 0 never replaces it. Not uvicorn's 5 s, on purpose: what blocks"
        " the loop is most often a slow request, and its worker has others that would be lost.",
    )


SETTINGS: tuple[Setting[Any, Any], ...] = tuple(row for row in vars(Config).values() if isinstance(row, Setting))
