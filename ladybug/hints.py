"""What to tell who asks for what is not here: options and values of other servers, misspelt names, other people's variables.

Rules: nothing that was asked for is ignored in silence, and each answer is one line that says what to do instead. The texts
continue "--option: ...". Nothing here knows the table of settings; whoever asks brings its names.
"""

import re
from collections.abc import Collection, Iterator, Mapping

# Options of uvicorn whose feature is not here yet, by the name of the keyword, and what to use meanwhile.
NOT_SUPPORTED: Mapping[str, str] = {
    "http2": "",
    "ssl_keyfile": "",
    "ssl_certfile": "",
    "ssl_keyfile_password": "",
    "ssl_version": "",
    "ssl_cert_reqs": "",
    "ssl_ca_certs": "",
    "ssl_ciphers": "",
    "ssl_context_factory": "",
    "callback_notify": "",
    "timeout_notify": "",
}

_LOGS = "use --log-config; without it the access log goes to stdout, the rest to stderr"
_TLS = "TLS is not there yet; let a proxy end it"
_NO_PROXY_PROTOCOL = "the PROXY protocol is not there yet; see --forwarded-allow-ips"
_STRICT = "leave it out: what is ambiguous in a request is refused"
_NO_METRICS = "there are no such metrics; see `ladybug ctl status`"
_NO_FILES = "let a proxy, or the application, serve files"
_NO_THREADS = "leave it out: a worker is one thread, with an event loop"
_HTTP2 = "HTTP/2 is not there yet"

# Options of uvicorn that are not needed here.
UVICORN: Mapping[str, str] = {
    "http": "leave it out: there is one HTTP/1.1 implementation",
    "h11_max_incomplete_event_size": "use --limit-request-line and --limit-request-fields-size",
    "reset_contextvars": "leave it out: no request sees the context variables of another",
}

# Options of gunicorn that are none of ours, as they are typed but for the dashes, and what does the same here.
GUNICORN: Mapping[str, str] = {
    "c": "there is no configuration file; give options, or LADYBUG_ variables",
    "config": "there is no configuration file; give options, or LADYBUG_ variables",
    "check_config": "nothing like it; a wrong setting ends the command with code 2",
    "print_config": "nothing like it; `ladybug --help` shows the defaults",
    "b": "use --host and --port, or --uds",
    "bind": "use --host and --port, or --uds",
    "reuse_port": "leave it out: each worker has a listener of its own",
    "w": "use --workers",
    "k": "leave it out: there is one kind of worker, for ASGI; its event loop is --loop",
    "worker_class": "leave it out: there is one kind of worker, for ASGI; its event loop is --loop",
    "threads": "leave it out: an event loop serves all of a worker's requests",
    "worker_connections": "use --limit-concurrency",
    "max_requests": "use --limit-max-requests",
    "max_requests_jitter": "use --limit-max-requests-jitter",
    "t": "use --timeout-worker-healthcheck",
    "timeout": "use --timeout-worker-healthcheck",
    "graceful_timeout": "use --timeout-graceful-shutdown",
    "keep_alive": "use --timeout-keep-alive",
    "limit_request_field_size": "use --limit-request-fields-size, which is for all fields together",
    "reload_engine": "leave it out",
    "reload_extra_file": "use --reload-include",
    "spew": "nothing like it",
    "no_sendfile": "leave it out: a file is sent as the application asks",
    "chdir": "start it there; --app-dir says where to import from",
    "pythonpath": "use --app-dir, or PYTHONPATH",
    "D": "let systemd, or another supervisor, keep it in the background (docs/deployment.md)",
    "daemon": "let systemd, or another supervisor, keep it in the background (docs/deployment.md)",
    "e": "set the variable in front of the command, or use --env-file",
    "env": "set the variable in front of the command, or use --env-file",
    "p": "use --pid-file",
    "pid": "use --pid-file",
    "worker_tmp_dir": "leave it out: workers write no files",
    "u": "use --user",
    "g": "use --group",
    "m": "use --umask",
    "initgroups": "leave it out: the groups of --user are always set",
    "access_logfile": _LOGS,
    "access_logformat": _LOGS,
    "error_logfile": _LOGS,
    "log_file": _LOGS,
    "log_config_json": "use --log-config, which reads .json too",
    "logger_class": _LOGS,
    "capture_output": "leave it out: what the application prints goes where the server's output goes",
    "disable_redirect_access_to_syslog": _LOGS,
    "log_syslog": _LOGS,
    "log_syslog_to": _LOGS,
    "log_syslog_prefix": _LOGS,
    "log_syslog_facility": _LOGS,
    "R": "leave it out: nothing is taken from standard input",
    "enable_stdio_inheritance": "leave it out: standard output is inherited",
    "statsd_host": _NO_METRICS,
    "statsd_prefix": _NO_METRICS,
    "dogstatsd_tags": _NO_METRICS,
    "enable_backlog_metric": _NO_METRICS,
    "n": "leave it out: processes are named after the application",
    "name": "leave it out: processes are named after the application",
    "paste": "there is no support for Paste",
    "proxy_protocol": _NO_PROXY_PROTOCOL,
    "proxy_allow_from": _NO_PROXY_PROTOCOL,
    "forwarder_headers": "leave it out: see --forwarded-allow-ips",
    "header_map": "leave it out: see --forwarded-allow-ips",
    "strip_header_spaces": _STRICT,
    "permit_unconventional_http_method": _STRICT,
    "permit_unconventional_http_version": _STRICT,
    "permit_obsolete_folding": _STRICT,
    "casefold_http_method": _STRICT,
    "http_parser": "leave it out: there is one HTTP/1.1 implementation",
    "http_protocols": "leave it out: HTTP/1.1 is what there is so far",
    "protocol": "leave it out: HTTP/1.1 is what there is so far",
    "asgi_loop": "use --loop",
    "asgi_lifespan": "use --lifespan",
    "asgi_disconnect_grace_period": "leave it out: send() raises an OSError once the client is gone",
    "websocket_max_message_size": "use --ws-max-size",
    "keyfile": _TLS,
    "certfile": _TLS,
    "ca_certs": _TLS,
    "cert_reqs": _TLS,
    "ciphers": _TLS,
    "suppress_ragged_eofs": _TLS,
    "do_handshake_on_connect": _TLS,
}

# The same of granian. Its switches are told of in both forms, --name and --no-name.
GRANIAN: Mapping[str, str] = {
    "http": UVICORN["http"],
    "no_ws": "use --ws none",
    "uds_permissions": "use --umask",
    "blocking_threads": _NO_THREADS,
    "blocking_threads_idle_timeout": _NO_THREADS,
    "runtime_threads": _NO_THREADS,
    "runtime_blocking_threads": _NO_THREADS,
    "runtime_mode": _NO_THREADS,
    "task_impl": "leave it out: there is one, asyncio's",
    "backpressure": "use --limit-concurrency, beyond which requests are answered with 503",
    "http1_buffer_size": "use --limit-request-line and --limit-request-fields-size",
    "http1_header_read_timeout": "use --timeout-request-head, in seconds",
    "http1_keep_alive": "use --timeout-keep-alive",
    "http1_pipeline_flush": "leave it out: what is answered in one turn is sent together",
    "http2_adaptive_window": _HTTP2,
    "http2_initial_connection_window_size": _HTTP2,
    "http2_initial_stream_window_size": _HTTP2,
    "http2_keep_alive_interval": _HTTP2,
    "http2_keep_alive_timeout": _HTTP2,
    "http2_max_concurrent_streams": _HTTP2,
    "http2_max_frame_size": _HTTP2,
    "http2_max_headers_size": _HTTP2,
    "http2_max_send_buffer_size": _HTTP2,
    "log": "use --log-level",
    "access_log_fmt": _LOGS,
    "ssl_certificate": _TLS,
    "ssl_protocol_min": _TLS,
    "ssl_ca": _TLS,
    "ssl_crl": _TLS,
    "ssl_client_verify": _TLS,
    "url_path_prefix": "see --root-path",
    "respawn_failed_workers": "leave it out: a worker that dies is replaced",
    "respawn_interval": "leave it out: workers are replaced one at a time",
    "rss_sample_interval": "leave it out: see --limit-worker-rss",
    "rss_samples": "leave it out: see --limit-worker-rss",
    "workers_lifetime": "use --limit-worker-lifetime, in seconds",
    "workers_max_rss": "use --limit-worker-rss, in bytes",
    "workers_kill_timeout": "use --timeout-graceful-shutdown, in seconds",
    "working_dir": GUNICORN["chdir"],
    "env_files": "use --env-file",
    "static_path_route": _NO_FILES,
    "static_path_mount": _NO_FILES,
    "static_path_dir_to_file": _NO_FILES,
    "static_path_expires": _NO_FILES,
    "metrics": _NO_METRICS,
    "metrics_scrape_interval": _NO_METRICS,
    "metrics_address": _NO_METRICS,
    "metrics_port": _NO_METRICS,
    "reload_paths": "use --reload-dir",
    "reload_ignore_dirs": "use --reload-exclude",
    "reload_ignore_patterns": "use --reload-exclude",
    "reload_ignore_paths": "use --reload-exclude",
    "reload_tick": "leave it out; changes that follow each other are collected for --reload-delay",
    "reload_ignore_worker_failure": "leave it out: what does not start is started again when a file changes",
    "process_name": GUNICORN["name"],
}

# The same of hypercorn, which has taken many of gunicorn's.
HYPERCORN: Mapping[str, str] = {
    **{
        name: GUNICORN[name]
        for name in (
            *("access_logfile", "access_logformat", "b", "bind", "c", "ca_certs", "cert_reqs", "certfile", "ciphers"),
            *(
                "config",
                "D",
                "daemon",
                "error_logfile",
                "g",
                "graceful_timeout",
                "k",
                "keep_alive",
                "keyfile",
                "log_file",
            ),
            *("m", "max_requests", "max_requests_jitter", "p", "pid", "statsd_host", "statsd_prefix", "u", "w"),
            "worker_class",
        )
    },
    "debug": "use --log-level debug",
    "error_log": _LOGS,
    "insecure_bind": "use --host and --port",
    "keyfile_password": _TLS,
    "quic_bind": "HTTP/3 is not there; let a proxy speak it",
    "read_timeout": "use --timeout-request-head and --timeout-request-body",
    "server_name": "let a proxy, or the application, look at the Host field",
    "verify_mode": _TLS,
    "websocket_ping_interval": "use --ws-ping-interval",
}

OTHERS: Mapping[str, Mapping[str, str]] = {
    "uvicorn": UVICORN,
    "gunicorn": GUNICORN,
    "granian": GRANIAN,
    "hypercorn": HYPERCORN,
}

# Values that other servers take and we do not.
_OWN_WEBSOCKET = "Ladybug has its own WebSocket; use auto"
WS_OF_UVICORN: Mapping[str, str] = dict.fromkeys(("websockets", "websockets-sansio", "wsproto"), _OWN_WEBSOCKET)
LOOPS_OF_OTHERS: Mapping[str, str] = dict.fromkeys(
    ("zuvloop", "rloop", "winloop"), "it is not supported; use auto, asyncio or uvloop"
)
INTERFACES_OF_OTHERS: Mapping[str, str] = {
    "wsgi": "Ladybug serves ASGI; wrap the application, for example with a2wsgi.WSGIMiddleware",
    "rsgi": "Ladybug serves ASGI",
    "asgi": "leave it out; auto tells ASGI 2 and 3 apart",
    "asginl": "use --lifespan off",
}

PREFIX = "LADYBUG_"
# Variables of ours that are no settings: of a predecessor (upgrade.py), and of the build (setup.py).
_OURS = frozenset({"LADYBUG_INHERITANCE", "LADYBUG_PURE", "LADYBUG_OPT_LEVEL"})
# Kubernetes and Docker tell every container of every service: for one that is called ladybug, or ladybug-web, these.
_SERVICE_LINK = re.compile(r"(.*_)?SERVICE_(HOST|PORT(_.+)?)|(.*_)?PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def is_foreign(name: str) -> bool:
    """Whether it is an option of another server for which there is an answer."""
    return name in NOT_SUPPORTED or bool(_answers(name))


def foreign_option(name: str) -> str:
    """What to tell who gave an option for which is_foreign."""
    if name in NOT_SUPPORTED:
        instead = NOT_SUPPORTED[name]
        return "this option of uvicorn is not supported yet" + (f"; {instead}" if instead else "")
    answers = _answers(name)
    # Where several servers have the name, they mean the same by it.
    return f"this option of {' and '.join(answers)} is not here; {next(iter(answers.values()))}"


def _answers(name: str) -> Mapping[str, str]:
    """By the server that has the option: what to use instead."""
    answers = {server: options[name] for server, options in OTHERS.items() if name in options}
    positive = name.removeprefix("no_")
    return answers or ({"granian": GRANIAN[positive]} if positive in GRANIAN else {})


def unknown_setting(name: str, names: Collection[str]) -> str:
    """What to tell who gave a setting that is none of `names`."""
    if is_foreign(name):
        return f"{name}: {foreign_option(name)}"
    return f"{name}: there is no such setting{_did_you_mean(name, names)}"


def strange_variables(environment: Mapping[str, str], names: Collection[str]) -> Iterator[str]:
    """What to tell of each variable that looks like a setting and is none of `names`.

    Nobody is told of variables that orchestration sets for a service whose name begins with ladybug.
    """
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in names and name not in _OURS:
            rest = name.removeprefix(PREFIX)
            if not _SERVICE_LINK.fullmatch(rest) and not (rest.endswith("_PORT") and is_service(environment[name])):
                yield f"{name}: there is no such setting{_did_you_mean(name, names)}"


def is_service(value: str) -> bool:
    """Whether the value of a variable is what Kubernetes and Docker tell of a service."""
    return _SERVICE_ADDRESS.match(value) is not None


def service_in_the_way(name: str) -> str:
    """What to tell whose setting is_service."""
    service = name.removesuffix("_PORT").lower()
    return (
        f"it is the address of a service: Kubernetes and Docker set {name} for one that is called {service}. Say"
        " enableServiceLinks: false in the pod's spec, or give the service another name, or give --port"
    )


def _did_you_mean(name: str, names: Collection[str]) -> str:
    from difflib import get_close_matches

    # A prefix that all of them share would make all of them alike.
    close = get_close_matches(name.removeprefix(PREFIX), [known.removeprefix(PREFIX) for known in names], n=1)
    return f"; did you mean {PREFIX if name.startswith(PREFIX) else ''}{close[0]}?" if close else ""
