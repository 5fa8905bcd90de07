"""The command line as users type it, `ladybug.run`, and what both print."""

import asyncio
import gc
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest

import ladybug
from ladybug import about, cli
from ladybug.config import SETTINGS, Config
from ladybug.exceptions import ConfigError, StartupError
from ladybug.hints import GRANIAN, NOT_SUPPORTED, OTHERS
from ladybug.setting import Setting

APP = "async def app(scope, receive, send): pass\n"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LADYBUG_") or name in ("WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"):
            monkeypatch.delenv(name)


def given(*arguments: str) -> dict[str, Any]:
    """The settings that the command makes of a command line."""
    return cli.given_values(cli.main.make_context("ladybug", list(arguments)).params)


def command(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ladybug", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **variables},
        timeout=30,
    )


TYPED: dict[str, tuple[list[str], object]] = {
    "app": (["main:app"], "main:app"),
    "factory": (["--factory"], True),
    "app_dir": (["--app-dir", "src"], "src"),
    "interface": (["--interface", "asgi2"], "asgi2"),
    "lifespan": (["--lifespan", "off"], "off"),
    "env_file": (["--env-file", ".env"], ".env"),
    "root_path": (["--root-path", "/api"], "/api"),
    "host": (["--host", "::"], "::"),
    "port": (["--port", "0"], 0),
    "uds": (["--uds", "app.sock"], "app.sock"),
    "fd": (["--fd", "3", "--fd", "4"], [3, 4]),
    "backlog": (["--backlog=100"], 100),
    "workers": (["--workers", "4"], 4),
    "control_socket": (["--control-socket", "/run/app/control.sock"], "/run/app/control.sock"),
    "preload": (["--preload"], True),
    "limit_max_requests": (["--limit-max-requests", "1000"], 1000),
    "limit_max_requests_jitter": (["--limit-max-requests-jitter", "50"], 50),
    "pid_file": (["--pid-file", "app.pid"], "app.pid"),
    "user": (["--user", "www-data"], "www-data"),
    "group": (["--group", "33"], "33"),
    "umask": (["--umask", "027"], 0o027),
    "reload": (["--reload"], True),
    "reload_dirs": (["--reload-dir", "src", "--reload-dir", "my lib"], ["src", "my lib"]),
    "reload_includes": (["--reload-include", "*.html", "--reload-include", "*.css"], ["*.html", "*.css"]),
    "reload_excludes": (["--reload-exclude", "test_*"], ["test_*"]),
    "reload_delay": (["--reload-delay", "1.5"], 1.5),
    "loop": (["--loop", "asyncio"], "asyncio"),
    "poller": (["--poller", "portable"], "portable"),
    "ws": (["--ws", "none"], "none"),
    "ws_max_size": (["--ws-max-size", "65536"], 65536),
    "ws_max_queue": (["--ws-max-queue", "8"], 8),
    "ws_ping_interval": (["--ws-ping-interval", "0"], 0.0),
    "ws_ping_timeout": (["--ws-ping-timeout", "2.5"], 2.5),
    "ws_per_message_deflate": (["--ws-per-message-deflate", "false"], False),
    "log_level": (["--log-level", "trace"], 5),
    "access_log": (["--no-access-log"], False),
    "use_colors": (["--use-colors"], True),
    "log_config": (["--log-config", "log.yaml"], "log.yaml"),
    "proxy_headers": (["--no-proxy-headers"], False),
    "forwarded_allow_ips": (["--forwarded-allow-ips", "*"], "*"),
    "headers": (["--header", "X-One: 1", "--header", "X-Two:a:b"], [("X-One", "1"), ("X-Two", "a:b")]),
    "server_header": (["--no-server-header"], False),
    "date_header": (["--no-date-header"], False),
    "limit_concurrency": (["--limit-concurrency", "10"], 10),
    "limit_request_line": (["--limit-request-line", "8190"], 8190),
    "limit_request_fields": (["--limit-request-fields", "100"], 100),
    "limit_request_fields_size": (["--limit-request-fields-size", "8190"], 8190),
    "limit_request_body": (["--limit-request-body", "1048576"], 1048576),
    "timeout_keep_alive": (["--timeout-keep-alive", "5"], 5.0),
    "timeout_request_head": (["--timeout-request-head", "0"], 0.0),
    "timeout_request_body": (["--timeout-request-body", "0.5"], 0.5),
    "timeout_send": (["--timeout-send", "10"], 10.0),
    "timeout_graceful_shutdown": (["--timeout-graceful-shutdown", "10"], 10.0),
    "shutdown_delay": (["--shutdown-delay", "10"], 10.0),
    "timeout_worker_boot": (["--timeout-worker-boot", "600"], 600.0),
    "timeout_worker_healthcheck": (["--timeout-worker-healthcheck", "0"], 0.0),
    "limit_worker_lifetime": (["--limit-worker-lifetime", "86400"], 86400.0),
    "limit_worker_lifetime_jitter": (["--limit-worker-lifetime-jitter", "600"], 600.0),
    "limit_worker_rss": (["--limit-worker-rss", "536870912"], 536870912),
}


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.name)
def test_every_setting_can_be_typed(row: Setting[Any, Any]) -> None:
    typed, value = TYPED[row.name]
    assert given(*typed) == {row.name: value}


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.name)
def test_every_setting_can_stand_in_its_variable(row: Setting[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    typed, value = TYPED[row.name]
    if row.is_switch:
        text = "1" if value else "0"
    elif row.is_repeatable:
        text = "\n".join(typed[1::2])
    else:
        text = typed[-1].partition("=")[2] or typed[-1]
    monkeypatch.setenv(row.env, text)
    assert given() == {row.name: value}


@pytest.mark.parametrize("word", ["1", "0", "true", "FALSE", "t", "f", "yes", "No", "y", "n", "on", "off"])
def test_a_switch_takes_the_words_that_click_knows(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in uvicorn, whose option is click's BOOLEAN."""
    expected = {"ws_per_message_deflate": click.BOOL.convert(word, None, None)}
    assert given("--ws-per-message-deflate", word) == expected
    assert given(f"--ws-per-message-deflate={word}") == expected
    monkeypatch.setenv("LADYBUG_WS_PER_MESSAGE_DEFLATE", word)
    assert given() == expected


def test_of_switches_the_last_counts() -> None:
    assert given("--no-ws-per-message-deflate") == {"ws_per_message_deflate": False}
    assert given("--no-ws-per-message-deflate", "--ws-per-message-deflate", "on") == {"ws_per_message_deflate": True}


def test_nothing_given_is_nothing_given_and_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LADYBUG_PORT", "")
    assert given() == {}


def test_the_command_line_wins_over_the_variable_over_web_concurrency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    assert Config("a:b", **given()).workers == 2
    monkeypatch.setenv("LADYBUG_WORKERS", "3")
    assert Config("a:b", **given()).workers == 3
    assert Config("a:b", **given("--workers", "4")).workers == 4


def test_workers_auto_is_a_number_of_cpus() -> None:
    assert 1 <= given("--workers", "auto")["workers"] <= (os.cpu_count() or 1)


@pytest.mark.parametrize("name", NOT_SUPPORTED)
def test_an_option_of_uvicorn_alone_is_refused_with_an_answer(name: str) -> None:
    flag = "--" + name.replace("_", "-")
    for typed in ([flag], [flag, "value"], [f"{flag}=value"]):
        with pytest.raises(click.UsageError, match=f"^{flag}: this option of uvicorn is not supported yet"):
            given(*typed, "main:app")


@pytest.mark.parametrize(("server", "name"), [(server, name) for server in OTHERS for name in OTHERS[server]])
def test_an_option_of_another_server_is_refused_with_what_to_use_instead(server: str, name: str) -> None:
    flag = "-" + name if len(name) == 1 else "--" + name.replace("_", "-")
    for typed in ([flag, "main:app"], [flag, "value", "main:app"], [f"{flag}=value"]):
        with pytest.raises(click.UsageError) as caught:
            given(*typed)
        head, _, tail = caught.value.message.partition(" is not here; ")
        assert head.startswith(f"{flag}: this option of ")
        assert server in head
        assert tail == f"{OTHERS[server][name]}."


def test_granians_switches_are_known_in_both_forms() -> None:
    with pytest.raises(click.UsageError) as caught:
        given("--no-respawn-failed-workers", "main:app")
    answer = GRANIAN["respawn_failed_workers"]
    assert caught.value.message == f"--no-respawn-failed-workers: this option of granian is not here; {answer}."


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        (["--ws-per-message-deflate", "true"], True),
        (["--ws-per-message-deflate", "False"], False),
        (["--ws-per-message-deflate=off"], False),
        (["--ws-per-message-deflate"], True),
        (["--no-ws-per-message-deflate"], False),
    ],
)
def test_a_switch_may_be_followed_by_a_word(typed: list[str], value: bool) -> None:
    assert given(*typed, "main:app") == {"app": "main:app", "ws_per_message_deflate": value}


def test_a_switch_takes_no_other_word() -> None:
    with pytest.raises(click.UsageError, match="does not take a value"):
        given("--reload=perhaps", "main:app")


def remarks(tmp_path: Path, *typed: str, **variables: str) -> list[str]:
    """What a server that cannot start says before that."""
    done = command("nowhere:app", "--workers", "0", "--port", "0", *typed, cwd=tmp_path, **variables)
    assert done.returncode == 3
    return [line.removeprefix("WARNING:  ") for line in done.stderr.splitlines() if line.startswith("WARNING")]


def test_variables_that_are_no_settings_are_told_of(tmp_path: Path) -> None:
    assert remarks(tmp_path, LADYBUG_WORKRES="4", LADYBUG_ZZZZZZ="1", LADYBUG_TIMEOUT_SEND="3", WORKRES="4") == [
        "LADYBUG_WORKRES: there is no such setting; did you mean LADYBUG_WORKERS?",
        "LADYBUG_ZZZZZZ: there is no such setting",
    ]


def test_variables_of_services_are_not_told_of(tmp_path: Path) -> None:
    """As Kubernetes makes them for services called ladybug and ladybug-web."""
    links = {
        f"LADYBUG_{name}{rest}": value
        for name in ("", "WEB_")
        for rest, value in {
            "SERVICE_HOST": "10.0.0.1",
            "SERVICE_PORT": "80",
            "SERVICE_PORT_HTTP": "80",
            "PORT": "tcp://10.0.0.1:80",
            "PORT_80_TCP": "tcp://10.0.0.1:80",
            "PORT_80_TCP_PROTO": "tcp",
            "PORT_80_TCP_PORT": "80",
            "PORT_80_TCP_ADDR": "10.0.0.1",
        }.items()
    }
    assert remarks(tmp_path, "--port", "0", **links) == []


def test_a_root_path_without_its_slash_is_told_of(tmp_path: Path) -> None:
    assert remarks(tmp_path, "--root-path", "api") == [
        "root_path: 'api' does not begin with a slash, and so no path that the application sees will"
    ]
    for good in ("/api", ""):
        assert remarks(tmp_path, "--root-path", good) == []


def test_variables_in_the_file_of_env_file_that_come_too_late_are_told_of(tmp_path: Path) -> None:
    pytest.importorskip("dotenv")
    (tmp_path / ".env").write_text("LADYBUG_PORT=80\nLADYBUG_WORKRES=4\nCOLOUR=red\n")
    late = "it stands in the file of --env-file, which is read too late for it"
    assert remarks(tmp_path, "--env-file", ".env") == [f"LADYBUG_PORT: {late}", f"LADYBUG_WORKRES: {late}"]


@pytest.mark.parametrize(
    ("typed", "variables", "message"),
    [
        (["--port", "abc", "m:a"], {}, "Invalid value for '--port': 'abc' is not a whole number."),
        (["m:a"], {"LADYBUG_PORT": "abc"}, "Invalid value for 'LADYBUG_PORT': 'abc' is not a whole number."),
        (["m:a"], {"LADYBUG_ACCESS_LOG": "2"}, "Invalid value for 'LADYBUG_ACCESS_LOG': '2' is neither on nor off."),
        (["m:a"], {"WEB_CONCURRENCY": "x"}, "WEB_CONCURRENCY: 'x' is not a whole number, or auto."),
        (["--log-level", "loud", "m:a"], {}, "Invalid value for '--log-level': 'loud' is not one of critical, error,"),
        (["--header", "X", "m:a"], {}, "Invalid value for '--header': 'X' is not of the form \"Name: value\"."),
        (["--prot", "1", "m:a"], {}, "No such option '--prot'."),
        (
            ["m:a"],
            {"LADYBUG_PORT": "tcp://10.0.0.1:80"},
            "Invalid value for 'LADYBUG_PORT': it is the address of a service",
        ),
        (
            ["--ws", "wsproto", "m:a"],
            {},
            "Invalid value for '--ws': 'wsproto': Ladybug has its own WebSocket; use auto.",
        ),
        (["--http2", "m:a"], {}, "--http2: this option of uvicorn is not supported yet."),
        (["-w", "4", "m:a"], {}, "-w: this option of gunicorn and hypercorn is not here; use --workers."),
        (
            ["-b0.0.0.0:80", "m:a"],
            {},
            "-b: this option of gunicorn and hypercorn is not here; use --host and --port, or --uds.",
        ),
        (["--http", "h11", "m:a"], {}, "--http: this option of uvicorn and granian is not here; leave it out:"),
        (["--interface", "asgi", "m:a"], {}, "Invalid value for '--interface': 'asgi': leave it out;"),
        (["--uds", "x", "--fd", "3", "m:a"], {}, "uds and fd both say where to listen: give one of them."),
        (["--log-config", "nowhere.ini", "m:a"], {}, "log_config: cannot read nowhere.ini: "),
        (["m:a", "n:b"], {}, "Got unexpected extra argument"),
        ([], {}, "Missing argument 'APP': what to serve, as module:attribute (or in LADYBUG_APP)."),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_one_clear_error(
    tmp_path: Path, typed: list[str], variables: dict[str, str], message: str
) -> None:
    done = command(*typed, cwd=tmp_path, **variables)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: ")
    assert f"Error: {message}" in done.stderr
    assert "Traceback" not in done.stderr


def test_version_is_one_line_that_tells_what_runs(tmp_path: Path) -> None:
    done = command("--version", cwd=tmp_path)
    python = re.escape(sys.version.split()[0])
    line = rf"ladybug {ladybug.__version__} \(compiled: (yes|no), \w+ {python}, event loop: (uvloop|asyncio)\)\n"
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(line, done.stdout)


@pytest.mark.parametrize("typed", ["--help", "-h"])
def test_help_explains_every_option_and_the_two_defaults_that_differ(tmp_path: Path, typed: str) -> None:
    done = command(typed, cwd=tmp_path)
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    for row in SETTINGS:
        assert row.flag.partition("/")[0] in text
    assert "Not uvicorn's 5 on purpose: load balancers keep idle connections for 60 s" in text
    assert "Not unlimited as with uvicorn, on purpose: one open stream would block the stop for ever." in text


def test_compiled_is_told_from_where_the_connection_would_load() -> None:
    import ladybug.connection

    assert about.is_compiled() == (Path(ladybug.connection.__file__).suffix == ".so")


def test_the_start_lines_say_where_with_what_and_how_to_stop() -> None:
    first, second, third = about.start_lines(
        Config("main:app", workers=2, loop="asyncio"), ["http://127.0.0.1:8000", "http://[::1]:8000"]
    )
    assert first == f"Ladybug {ladybug.__version__} serving main:app on http://127.0.0.1:8000, http://[::1]:8000"
    assert re.fullmatch(r"2 workers · asyncio · (not )?compiled · Python \d+\.\d+\.\d+", second)
    assert third == "Press Ctrl+C to stop"


@pytest.mark.parametrize(("workers", "text"), [(0, "in this process"), (1, "1 worker"), (3, "3 workers")])
def test_the_start_lines_count_workers(workers: int, text: str) -> None:
    assert about.start_lines(Config("main:app", workers=workers), [])[1].startswith(f"{text} · ")


def test_an_application_object_is_announced_as_one_process_by_its_type() -> None:
    class Application:
        def __call__(self) -> None: ...

    first, second, _ = about.start_lines(Config(Application()), ["unix:/run/x.sock"])
    assert first.endswith(" serving Application on unix:/run/x.sock")
    assert second.startswith("in this process · ")


def test_an_application_object_cannot_have_several_workers() -> None:
    with pytest.raises(ConfigError, match=r'^workers: 2 workers cannot share .* "module:attribute"'):
        ladybug.run(lambda scope: None, workers=2)


def test_run_knows_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"^prot: there is no such setting; did you mean port\?$"):
        ladybug.run("main:app", prot=1)  # type: ignore[call-arg]  # and so do type checkers


def test_run_in_a_loop_that_runs_is_explained(recwarn: pytest.WarningsRecorder) -> None:
    async def call() -> None:
        ladybug.run(lambda scope: None)

    with pytest.raises(ConfigError, match=r"`await ladybug\.Server\(ladybug\.Config\(app\)\)\.serve\(\)`$"):
        asyncio.run(call())
    gc.collect()
    assert not recwarn


@pytest.mark.parametrize("settings", [{}, {"workers": 2}, {"reload": True}, {"workers": 0, "reload": True}])
def test_processes_cannot_be_managed_from_a_thread(settings: dict[str, Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ladybug.run, "main:app", **settings)
        with pytest.raises(ConfigError, match=r"only the main thread gets signals.*or give workers=0"):
            running.result(30)


def test_run_at_the_top_level_of_the_applications_module_is_explained(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import ladybug\n" + APP + "ladybug.run('main:app', port=0, workers=0)\n")
    done = subprocess.run([sys.executable, "main.py"], capture_output=True, text=True, cwd=tmp_path, timeout=30)
    assert done.returncode == 3
    assert 'Put the call under: if __name__ == "__main__":' in done.stderr


def test_what_cannot_start_ends_with_3_and_its_cause_once(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("raise RuntimeError('no database')\n")
    for workers in ("0", "1", "2"):
        done = command("main:app", "--port", "0", "--workers", workers, cwd=tmp_path)
        assert done.returncode == 3
        assert done.stderr.count("RuntimeError: no database") == 1


def test_the_package_exports_what_users_import_and_nothing_else() -> None:
    assert ladybug.Config is Config
    assert ladybug.ConfigError is ConfigError
    assert ladybug.StartupError is StartupError
    assert ladybug.Server.__module__ == "ladybug.server"
    assert set(ladybug.__all__) <= set(dir(ladybug))
    with pytest.raises(AttributeError, match="module 'ladybug' has no attribute 'run_away'"):
        ladybug.run_away  # type: ignore[attr-defined]  # noqa: B018
