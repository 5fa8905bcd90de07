"""The table of settings and `Config`: names, defaults, validation, where values come from, and the manual made of it."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ladybug.config import SETTINGS, Config
from ladybug.env_file import reload_env_file
from ladybug.exceptions import ConfigError
from ladybug.hints import NOT_SUPPORTED, OTHERS
from ladybug.hints import UVICORN as NOT_NEEDED
from ladybug.log import LOGGING_CONFIG
from ladybug.setting import Setting

ROOT = Path(__file__).parent.parent
ROWS = {row.name: row for row in SETTINGS}


@pytest.fixture(autouse=True)
def _no_shared_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)


def config(**given: Any) -> Config:
    return Config("module:app", **given)


# The defaults that are promised; durations in seconds, sizes in bytes.
DEFAULTS = {
    "factory": False,
    "app_dir": "",
    "interface": "auto",
    "lifespan": "auto",
    "env_file": None,
    "host": "127.0.0.1",
    "port": 8000,
    "uds": None,
    "fd": [],
    "backlog": 2048,
    "workers": 1,
    "pid_file": None,
    "user": None,
    "group": None,
    "umask": None,
    "reload": False,
    "reload_dirs": [],
    "reload_includes": [],
    "reload_excludes": [],
    "reload_delay": 0.25,
    "loop": "auto",
    "poller": "auto",
    "ws": "auto",
    "ws_max_size": 16777216,
    "ws_max_queue": 32,
    "ws_ping_interval": 20,
    "ws_ping_timeout": 20,
    "ws_per_message_deflate": True,
    "root_path": "",
    "headers": [],
    "server_header": True,
    "date_header": True,
    "proxy_headers": True,
    "forwarded_allow_ips": "127.0.0.1,::1",
    "log_level": None,
    "access_log": True,
    "use_colors": None,
    "log_config": LOGGING_CONFIG,
    "limit_concurrency": None,
    "control_socket": "auto",
    "preload": False,
    "limit_max_requests": None,
    "limit_max_requests_jitter": 0,
    "limit_worker_lifetime": None,
    "limit_worker_lifetime_jitter": 0,
    "limit_worker_rss": None,
    "limit_request_line": 16384,
    "limit_request_fields": 128,
    "limit_request_fields_size": 65536,
    "limit_request_body": None,
    "timeout_keep_alive": 75,
    "timeout_request_head": 30,
    "timeout_request_body": 30,
    "timeout_send": 60,
    "timeout_graceful_shutdown": 30,
    "shutdown_delay": 0,
    "timeout_worker_boot": 120,
    "timeout_worker_healthcheck": 30,
}


def test_the_defaults_are_the_promised_ones() -> None:
    made = config()
    assert {row.name: getattr(made, row.name) for row in SETTINGS} == {"app": "module:app", **DEFAULTS}


def test_every_row_can_be_typed_explained_and_told_from_the_others() -> None:
    flags = [flag for row in SETTINGS for flag in row.flag.split("/")]
    assert len(flags) == len(set(flags))
    assert all(row.help.endswith(".") and row.group for row in SETTINGS)
    assert all(row.is_switch or row.kind.metavar for row in SETTINGS)


@pytest.mark.parametrize("row", [row for row in SETTINGS if not row.is_argument], ids=lambda row: row.name)
def test_a_validated_value_is_taken_again_unchanged(row: Setting[Any, Any]) -> None:
    value = row.kind(row.default)
    assert row.kind(value) == value


UVICORN = """
    host port uds fd backlog app factory app_dir interface lifespan reset_contextvars env_file workers limit_max_requests
    limit_max_requests_jitter timeout_worker_healthcheck reload reload_dirs reload_includes reload_excludes reload_delay
    loop http http2 ws h11_max_incomplete_event_size ws_max_size ws_max_queue ws_ping_interval ws_ping_timeout
    ws_per_message_deflate log_config log_level access_log use_colors proxy_headers forwarded_allow_ips root_path
    server_header date_header headers limit_concurrency timeout_keep_alive timeout_graceful_shutdown ssl_keyfile
    ssl_certfile ssl_keyfile_password ssl_version ssl_cert_reqs ssl_ca_certs ssl_ciphers
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", UVICORN)
def test_every_option_of_uvicorn_is_a_setting_or_refused_with_an_answer(name: str) -> None:
    assert (name in ROWS) + (name in NOT_SUPPORTED) + (name in NOT_NEEDED) == 1
    if name not in ROWS:
        answer = "is not supported yet" if name in NOT_SUPPORTED else f"(and granian )?is not here; {NOT_NEEDED[name]}"
        with pytest.raises(ConfigError, match=f"^{name}: this option of uvicorn {answer}"):
            config(**{name: True})


def test_no_setting_is_called_another_servers() -> None:
    for options in OTHERS.values():
        assert not set(options) & {*ROWS, *NOT_SUPPORTED}
    assert not set(ROWS) & set(NOT_SUPPORTED)


def test_an_option_of_several_servers_has_one_answer() -> None:
    answers: dict[str, str] = {}
    for options in OTHERS.values():
        for name, answer in options.items():
            assert answers.setdefault(name, answer) == answer


def test_a_hint_names_only_options_that_are_there() -> None:
    flags = {flag for row in SETTINGS for flag in row.flag.split("/")} | {"--help"}
    texts = [text for options in (NOT_SUPPORTED, *OTHERS.values()) for text in options.values()]
    named = {flag for text in texts for flag in re.findall(r"--[a-z-]+", text)}
    assert named <= flags


def test_gunicorns_names_are_answered_in_programs_too() -> None:
    with pytest.raises(
        ConfigError, match=r"^bind: this option of gunicorn and hypercorn is not here; use --host and --port"
    ):
        config(bind="0.0.0.0:80")


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"^prot: there is no such setting; did you mean port\?$"):
        Config("module:app", prot=1)  # type: ignore[call-arg]  # and type checkers know the settings, too
    with pytest.raises(ConfigError, match=r"^zzzzzz: there is no such setting$"):
        config(zzzzzz=1)


def test_type_checkers_know_what_is_given_and_what_is_read() -> None:
    made = Config("module:app", workers="auto", log_level="trace", headers=["X: y"], timeout_send=1)
    workers: int = made.workers
    level: int | None = made.log_level
    headers: list[tuple[str, str]] = made.headers
    row: Setting[int, int] = Config.port
    assert workers >= 1
    assert (level, headers, made.timeout_send, row.env) == (5, [("X", "y")], 1.0, "LADYBUG_PORT")
    with pytest.raises(ConfigError):
        Config("module:app", port="http")  # type: ignore[arg-type]


TAKEN = [
    ("port", "0", 0),
    ("port", 65535, 65535),
    ("workers", 0, 0),
    ("workers", "3", 3),
    ("access_log", "off", False),
    ("access_log", "TRUE", True),
    ("use_colors", "no", False),
    ("log_level", "trace", 5),
    ("log_level", "INFO", 20),
    ("log_level", 15, 15),
    ("log_level", "15", 15),
    ("loop", "uvloop", "uvloop"),
    ("loop", "my.loops:new", "my.loops:new"),
    ("app_dir", Path("/srv"), "/srv"),
    ("uds", Path("/run/x.sock"), "/run/x.sock"),
    ("fd", 3, [3]),
    ("fd", "3 4", [3, 4]),
    ("fd", ["3", 4], [3, 4]),
    ("pid_file", Path("/run/x.pid"), "/run/x.pid"),
    ("user", "www-data", "www-data"),
    ("user", 33, "33"),
    ("group", "33", "33"),
    ("umask", "027", 0o027),
    ("umask", "0o77", 0o077),
    ("umask", 0o22, 0o22),
    ("reload_dirs", "src", ["src"]),
    ("reload_dirs", [Path("src"), "my lib"], ["src", "my lib"]),
    ("reload_includes", "*.html\n*.css\n", ["*.html", "*.css"]),
    ("timeout_keep_alive", "2.5", 2.5),
    ("timeout_keep_alive", 0, 0.0),
    ("limit_concurrency", "10", 10),
    ("limit_request_fields", 1, 1),
    ("headers", [("X-One", "1"), "X-Two: a: b "], [("X-One", "1"), ("X-Two", "a: b")]),
    ("headers", "X-One: 1\nX-Two:2\n", [("X-One", "1"), ("X-Two", "2")]),
    ("forwarded_allow_ips", ["10.0.0.0/8", "::1"], "10.0.0.0/8,::1"),
    ("forwarded_allow_ips", "*", "*"),
    ("forwarded_allow_ips", "", ""),
    ("forwarded_allow_ips", [], ""),
    ("forwarded_allow_ips", "10.0.0.1, 2001:db8::/32 ,fe80::1%eth0", "10.0.0.1,2001:db8::/32,fe80::1%eth0"),
    ("forwarded_allow_ips", "testclient,/run/proxy.sock", "testclient,/run/proxy.sock"),
]


@pytest.mark.parametrize(("name", "given", "value"), TAKEN)
def test_values_are_taken_typed_and_as_text(name: str, given: object, value: object) -> None:
    taken = getattr(config(**{name: given}), name)
    assert taken == value
    assert type(taken) is type(value)


REFUSED = [
    ("app", 5, "5 is neither an import string"),
    ("port", "abc", "'abc' is not a whole number"),
    ("port", 65536, "65536 is out of range: it must be from 0 to 65535"),
    ("port", True, "True is not a whole number"),
    ("port", 80.0, "80.0 is not a whole number"),
    ("port", None, "None is not a whole number"),
    ("fd", -1, "-1 is out of range: it must be at least 0"),
    ("fd", [3, "x"], "'x' is not a whole number"),
    ("user", "", "'' is not a whole number"),
    ("user", -1, "-1 is out of range"),
    ("umask", "rwx", "'rwx' is not an octal number such as 027"),
    ("umask", "089", "'089' is not an octal number such as 027"),
    ("umask", "1777", "1777 is out of range: it must be from 0 to 777"),
    ("umask", True, "True is not an octal number"),
    ("reload_dirs", 5, "5 is not a list of texts"),
    ("reload_includes", [5], "5 is not text"),
    ("reload_excludes", [""], "'' is not text"),
    ("workers", -1, "-1 is out of range"),
    ("workers", "many", "'many' is not a whole number, or auto"),
    ("host", 0, "0 is not text"),
    ("factory", "perhaps", "'perhaps' is neither on nor off"),
    ("factory", 1, "1 is neither on nor off"),
    ("interface", "wsgi", "'wsgi': Ladybug serves ASGI; wrap the application"),
    ("interface", "asgi1", "'asgi1' is not one of auto, asgi3, asgi2"),
    ("ws", "websockets", "'websockets': Ladybug has its own WebSocket; use auto"),
    ("ws", "websockets-sansio", "'websockets-sansio': Ladybug has its own WebSocket; use auto"),
    ("ws", "wsproto", "'wsproto': Ladybug has its own WebSocket; use auto"),
    ("ws", "module:Protocol", "'module:Protocol' is not one of auto, none"),
    ("lifespan", "maybe", "'maybe' is not one of auto, on, off"),
    ("loop", "zuvloop", "'zuvloop': it is not supported; use auto, asyncio or uvloop"),
    ("loop", "trio", "'trio' is not one of auto, asyncio, uvloop or an import string module:factory"),
    ("log_level", "loud", "'loud' is not one of critical, error, warning, info, debug, trace, nor a number"),
    ("log_config", 5, "5 is not a path"),
    ("uds", "", "'' is not a path"),
    ("app_dir", 5, "5 is not a path"),
    ("limit_concurrency", 0, "0 is out of range: it must be at least 1"),
    ("limit_request_fields", 129, "129 is out of range: it must be from 1 to 128"),
    ("timeout_keep_alive", "soon", "'soon' is not a number of seconds"),
    ("timeout_keep_alive", -1, "-1 is out of range: it must be at least 0 seconds"),
    ("timeout_keep_alive", "inf", "'inf' is not a number of seconds"),
    ("timeout_keep_alive", "nan", "'nan' is not a number of seconds"),
    ("timeout_graceful_shutdown", None, "None is not a number of seconds"),
    ("timeout_graceful_shutdown", 10**400, "is not a number of seconds"),
    ("headers", "X", "'X' is not of the form \"Name: value\""),
    ("headers", [("X", 1)], r"('X', 1) is not a pair (name, value) of texts"),
    ("headers", [("X y", "1")], "'X y' is not a header name"),
    ("headers", [": 1"], "'' is not a header name"),
    ("headers", [("X", "a\r\nEvil: 1")], "the value of X holds a character that a header cannot carry"),
    ("headers", [("X", "\N{SNOWMAN}")], "the value of X holds a character that a header cannot carry"),
    ("headers", 5, "5 is not a list of header fields"),
    ("headers", ["Connection: close"], "Connection depends on the response"),
    ("headers", ["content-length: 5"], "content-length depends on the response"),
    ("headers", ["Transfer-Encoding: chunked"], "Transfer-Encoding depends on the response"),
    ("forwarded_allow_ips", 5, "5 is neither text nor a list of texts"),
    ("forwarded_allow_ips", [5], "[5] is neither text nor a list of texts"),
    ("forwarded_allow_ips", "10.0.0.0/33", "'10.0.0.0/33' does not appear to be an IPv4 or IPv6 network"),
    ("forwarded_allow_ips", "10.0.0.1/8", "10.0.0.1/8 has host bits set"),
    ("forwarded_allow_ips", "10.0.0.256", "'10.0.0.256' does not appear to be"),
    ("forwarded_allow_ips", "192.168.*", "'192.168.*' does not appear to be"),
    ("forwarded_allow_ips", "10.0.0.1:8000", "'10.0.0.1:8000' does not appear to be"),
    ("forwarded_allow_ips", "proxies/8", "'proxies/8' does not appear to be"),
    ("forwarded_allow_ips", "10.0.0.1 10.0.0.2", "'10.0.0.1 10.0.0.2' is no address; between two of them is one comma"),
    ("forwarded_allow_ips", "10.0.0.1,,10.0.0.2", "'' is no address; between two of them is one comma"),
    ("forwarded_allow_ips", ["10.0.0.1", ""], "'' is no address; between two of them is one comma"),
]


@pytest.mark.parametrize(("name", "given", "message"), REFUSED)
def test_impossible_values_are_refused_by_name(name: str, given: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**{"app": "module:app", name: given})  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{name}: ")
    assert message in str(caught.value)


def test_a_value_is_validated_when_it_is_set_later() -> None:
    made = config()
    made.port = 9000
    assert made.port == 9000
    with pytest.raises(ValueError, match="out of range"):
        made.port = -1


def test_two_places_to_listen_are_refused() -> None:
    with pytest.raises(ConfigError, match="uds and fd both say where to listen"):
        config(uds="/run/x.sock", fd=3)


def test_shared_variables_count_when_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "5")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.1.2.3")
    assert (config().workers, config().forwarded_allow_ips) == (5, "10.1.2.3")
    assert config(workers=None).workers == 5
    assert (config(workers=2).workers, config(forwarded_allow_ips="*").forwarded_allow_ips) == (2, "*")


def test_an_empty_shared_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "")
    assert config().workers == 1


def test_a_wrong_shared_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "lots")
    with pytest.raises(ConfigError, match=r"^WEB_CONCURRENCY: 'lots' is not a whole number, or auto$"):
        config()


def test_ladybug_variables_are_the_command_lines_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LADYBUG_PORT", "9000")
    assert config().port == 8000


def test_env_file_fills_the_environment_without_overriding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dotenv")
    # Set first, so that monkeypatch takes away afterwards what the file leaves behind.
    for name in ("WEB_CONCURRENCY", "LADYBUG_TEST_NEW"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("LADYBUG_TEST_OLD", "kept")
    file = tmp_path / "settings.env"
    file.write_text("WEB_CONCURRENCY=4\nLADYBUG_TEST_NEW=new\nLADYBUG_TEST_OLD=overridden\nLADYBUG_PORT=9000\n")
    monkeypatch.setenv("LADYBUG_PORT", "8001")

    made = config(env_file=file)
    assert (made.workers, made.port) == (4, 8000)
    assert (os.environ["LADYBUG_TEST_NEW"], os.environ["LADYBUG_TEST_OLD"]) == ("new", "kept")


def test_an_env_file_that_is_read_again_changes_what_it_had_set_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    for name in ("COLOUR", "GONE", "NEW"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("FIXED", "by the user")
    file.write_text("COLOUR=red\nGONE=1\nFIXED=1\n")
    made = config(env_file=file)
    assert made.names_from_env_file == {"COLOUR", "GONE"}
    file.write_text("COLOUR=blue\nNEW=2\nFIXED=2\n")
    reload_env_file(str(file), made.names_from_env_file)
    assert [os.environ.get(name) for name in ("COLOUR", "GONE", "NEW", "FIXED")] == ["blue", None, "2", "by the user"]
    file.unlink()
    with pytest.raises(ConfigError, match="env_file: cannot read"):
        reload_env_file(str(file), made.names_from_env_file)


def test_an_env_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("dotenv")
    with pytest.raises(ConfigError, match=r"^env_file: cannot read .*nowhere"):
        config(env_file=tmp_path / "nowhere")


def test_env_file_without_python_dotenv_says_what_to_install(tmp_path: Path) -> None:
    # None in sys.modules is how Python itself marks a module as not importable.
    program = "import sys; sys.modules['dotenv'] = None; import ladybug; ladybug.Config('a:b', env_file='x')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert 'env_file: reading it needs python-dotenv: pip install python-dotenv, or pip install "ladybug' in done.stderr


def test_the_manual_is_up_to_date() -> None:
    manual = runpy.run_path(str(ROOT / "scripts" / "settings_manual.py"))["manual"]
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == manual(), "run: python scripts/settings_manual.py"


def test_importing_ladybug_and_its_settings_stays_light(tmp_path: Path) -> None:
    program = (
        "import sys, ladybug\n"
        "assert not {'typing', 'logging', 'click', 'asyncio'} & set(sys.modules) - before\n"
        "import ladybug.about, ladybug.launch\n"
        "ladybug.launch.configure_logging(ladybug.Config('a:b', workers='auto'))\n"
        "heavy = {'asyncio', 'ssl', 'concurrent', 'click', 'inspect', 'logging.config', 'uvloop'} & set(sys.modules) - before\n"
        "assert not heavy, heavy\n"
    )
    command = [sys.executable, "-c", "import sys; before = set(sys.modules)\n" + program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
