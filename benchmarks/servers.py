"""The servers: how each is started on the same application, checked, and stopped.

Every server runs one worker. The command lines are the whole of what is done for it; why they are these is said
beside them. A server is started as the leader of its own session on its own CPU, and everything it forks is counted.
"""

import contextlib
import http.client
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import environments, frames
from .workloads import Workload

HERE = Path(__file__).parent
START_TIMEOUT = 20.0  # seconds to the first right answer
STOP_TIMEOUT = 5.0  # seconds from SIGTERM to SIGKILL
ANSWER_TIMEOUT = 5.0


@dataclass
class Bench:
    """Where a comparison runs: the environment's bin/, Ladybug's command, the two CPUs, a directory for files."""

    bin: Path
    ladybug: list[str]
    server_cpu: int
    client_cpu: int
    scratch: Path


@dataclass(frozen=True)
class Launch:
    """What a command line is made from. `patient`: idle connections must stay open for minutes."""

    bench: Bench
    workload: Workload
    port: int
    patient: bool = False

    @property
    def path(self) -> str:
        return str(self.bench.bin)


@dataclass(frozen=True)
class Server:
    """kind: asgi (a peer), log (a peer with its access log on), anchor (not ASGI), ladybug, ladybug-log.

    `only`: "http" or "websocket", when it is measured on nothing else.
    """

    name: str
    kind: str
    command: Callable[[Launch], list[str]] = field(repr=False)
    only: str = ""

    def plays(self, workload: Workload) -> bool:
        if self.only and self.only != ("websocket" if workload.websocket else "http"):
            return False
        if self.kind == "anchor":
            return self.name in workload.anchors
        return workload.logged if self.kind in ("log", "ladybug-log") else True


class ServerProblem(Exception):
    """The server did not start, or answered wrongly. The message is short; the log's end follows it if it died."""


def uvicorn(launch: Launch) -> list[str]:
    patient = ["--timeout-keep-alive", "600"] if launch.patient else []
    fast = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    if launch.workload.websocket:
        fast += ["--log-level", "warning"]  # it has three lines for every WebSocket connection, not in the access log
    return [f"{launch.path}/uvicorn", *fast, *patient, "--port", str(launch.port), launch.workload.app]


def uvicorn_log(launch: Launch) -> list[str]:
    """As installed: uvicorn[standard] finds uvloop and httptools by itself and logs every request."""
    return [f"{launch.path}/uvicorn", "--port", str(launch.port), launch.workload.app]


def granian(launch: Launch) -> list[str]:
    options = ["--interface", "asgi", *granian_patient(launch)]
    return [f"{launch.path}/granian", *options, "--port", str(launch.port), launch.workload.app]


def granian_st(launch: Launch) -> list[str]:
    """As its authors benchmark ASGI."""
    options = ["--interface", "asgi", "--runtime-mode", "st", "--http", "1", "--loop", "uvloop"]
    options += ["--ws" if launch.workload.websocket else "--no-ws", *granian_patient(launch)]
    return [f"{launch.path}/granian", *options, "--port", str(launch.port), launch.workload.app]


def granian_patient(launch: Launch) -> list[str]:
    """Its backpressure counts connections, idle ones too, and is 1,024 by default."""
    return ["--backlog", "20000", "--backpressure", "20000"] if launch.patient else []


def gunicorn(launch: Launch) -> list[str]:
    """Its own ASGI worker with uvloop and the C parser; room for the 10,000 connections of the memory probe."""
    options = ["-k", "asgi", "-w", "1", "--asgi-loop", "uvloop", "--http-parser", "fast", "--no-control-socket"]
    options += ["--log-level", "warning", "--worker-connections", "20000"]
    patient = ["--keep-alive", "600"] if launch.patient else []
    return [f"{launch.path}/gunicorn", *options, *patient, "-b", f"127.0.0.1:{launch.port}", launch.workload.app]


def hypercorn(launch: Launch) -> list[str]:
    patient = ["--keep-alive", "600"] if launch.patient else []
    options = ["-k", "uvloop", "--log-level", "warning"]
    return [f"{launch.path}/hypercorn", *options, *patient, "-b", f"127.0.0.1:{launch.port}", launch.workload.app]


def fastpysgi(launch: Launch) -> list[str]:
    """Through its API: its command line loads the application as a lone file."""
    module, _, attribute = launch.workload.app.partition(":")
    program = f"import fastpysgi; from {module} import {attribute} as app; "
    program += f"fastpysgi.run(app, host='127.0.0.1', port={launch.port})"
    return [f"{launch.path}/python", "-c", program]


def socketify(launch: Launch) -> list[str]:
    """On HTTP it answers some of our requests wrongly and dies of others; on WebSocket it is the one to beat."""
    options = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(launch.port), "--workers", "1"]
    return [f"{launch.path}/python", "-m", "socketify", launch.workload.app, *options]


def picows(launch: Launch) -> list[str]:
    """Not ASGI: a listener's callbacks, which is all that picows is."""
    return [f"{launch.path}/python", str(HERE / "anchors" / "picows_server.py"), str(launch.port), anchored(launch)]


def ladybug_command(command: list[str], *, access_log: bool) -> Callable[[Launch], list[str]]:
    def make(launch: Launch) -> list[str]:
        log = "--access-log" if access_log else "--no-access-log"
        patient = ["--timeout-keep-alive", "600"] if launch.patient else []
        base = command or launch.bench.ladybug
        return [*base, log, "--workers", "1", *patient, "--port", str(launch.port), launch.workload.app]

    return make


def nginx_configuration(launch: Launch) -> str:
    workload, scratch = launch.workload, launch.bench.scratch
    user = "user root;" if os.geteuid() == 0 else ""  # the scratch directory is private
    if len(workload.expected) < 1024:
        location = f'return 200 "{workload.expected.decode()}";'
    else:
        (scratch / "www").mkdir(exist_ok=True)
        (scratch / "www" / "answer").write_bytes(workload.expected)
        location = f"root {scratch}/www; try_files /answer =404;"
    temporary = " ".join(
        f"{kind}_temp_path {scratch}/nginx-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
{user} worker_processes 1; daemon off; pid {scratch}/nginx.pid; error_log stderr;
worker_rlimit_nofile 16384;
events {{ worker_connections 16000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600; {temporary}
  sendfile on; tcp_nopush on; open_file_cache max=10 inactive=600s; open_file_cache_valid 600s;
  types {{}} default_type text/plain;
  server {{ listen 127.0.0.1:{launch.port} backlog=4096; location / {{ {location} }} }}
}}
"""


def nginx(launch: Launch) -> list[str]:
    configuration = launch.bench.scratch / "nginx.conf"
    configuration.write_text(nginx_configuration(launch))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    return [program, "-p", str(launch.bench.scratch), "-e", "stderr", "-c", str(configuration)]


def c_epoll(launch: Launch) -> list[str]:
    anchors, scratch = HERE / "anchors", launch.bench.scratch
    if launch.workload.websocket:
        return [str(environments.compiled(anchors / "websocket.c", scratch)), str(launch.port), anchored(launch)]
    program = environments.compiled(anchors / "epoll.c", scratch)
    closing = ["close"] if ("Connection", "close") in launch.workload.fields else []
    return [str(program), str(launch.port), str(len(launch.workload.expected)), *closing]


def anchored(launch: Launch) -> str:
    """What an anchor does, not having an application."""
    return "broadcast" if launch.workload.websocket == "broadcast" else "echo"


SERVERS = (
    Server("ladybug", "ladybug", ladybug_command([], access_log=False)),
    Server("uvicorn", "asgi", uvicorn),
    Server("granian-st", "asgi", granian_st),
    Server("granian", "asgi", granian),
    Server("gunicorn", "asgi", gunicorn),
    Server("hypercorn", "asgi", hypercorn),
    Server("fastpysgi", "asgi", fastpysgi, only="http"),  # it has no WebSocket
    Server("socketify", "asgi", socketify, only="websocket"),
    Server("ladybug-log", "ladybug-log", ladybug_command([], access_log=True)),
    Server("uvicorn-log", "log", uvicorn_log),
    Server("nginx", "anchor", nginx),
    Server("picows", "anchor", picows),
    Server("c-epoll", "anchor", c_epoll),
)

BY_NAME = {server.name: server for server in SERVERS}
BASELINE = "uvicorn"


def build(name: str, command: str) -> Server:
    """One of two builds of Ladybug under comparison; `command` is its command as a shell would take it."""
    return Server(name, "ladybug", ladybug_command(shlex.split(command), access_log=False))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, workload: Workload) -> tuple[int, bytes]:
    """One request of the workload, as wrk sends it, or one message. Returns status and body."""
    if workload.websocket:
        return frames.ask(port, workload, ANSWER_TIMEOUT)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT)
    try:
        connection.putrequest(workload.method, workload.path, skip_accept_encoding=True)
        for name, value in workload.fields:
            connection.putheader(name, value)
        if workload.body:
            connection.putheader("Content-Length", str(len(workload.body)))
        connection.endheaders(workload.body or None)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def complaint(status: int, body: bytes, workload: Workload, *, exact: bool) -> str:
    """Why an answer is wrong, or nothing. An anchor's body need only have the right length."""
    if status != workload.status:
        return f"status {status}"
    if len(body) != len(workload.expected):
        return f"body of {len(body)} bytes, not {len(workload.expected)}"
    return "wrong body" if exact and body != workload.expected else ""


@dataclass
class Running:
    """A started server. `pid` leads its session; `ready` is the time from exec to the first answer, seconds."""

    server: Server
    pid: int
    port: int
    ready: float


def environment(bench: Bench) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    served = bench.scratch / "file.txt"
    if not served.exists():
        served.write_bytes(b"f" * 1024 * 1024)
    return kept | {
        "PATH": f"{bench.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(HERE / "apps"),
        "BENCHMARK_FILE": str(served),
    }


@contextlib.contextmanager
def serve(server: Server, workload: Workload, bench: Bench, *, patient: bool = False) -> Iterator[Running]:
    """A fresh server for the workload, which has given one right answer; stopped on leaving.

    Its output, access log included, goes to a file: what a log costs is counted, not who reads it.
    Raises ServerProblem.
    """
    port = free_port()
    command = server.command(Launch(bench, workload, port, patient))
    output = bench.scratch / f"{server.name}.log"
    with output.open("wb") as log:
        begun = time.monotonic()
        process = subprocess.Popen(
            ["taskset", "-c", str(bench.server_cpu), *command],
            cwd=HERE / "apps",
            env=environment(bench),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for_answer(process, port, workload, exact=server.kind != "anchor", log=output)
        yield Running(server, process.pid, port, time.monotonic() - begun)
        if process.poll() is not None:
            raise ServerProblem(f"died under load ({ending(process.returncode)})")
    finally:
        stop(process)


def ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def wait_for_answer(process: subprocess.Popen[bytes], port: int, workload: Workload, *, exact: bool, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    last = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = log.read_text(errors="replace").strip()[-2000:]
            raise ServerProblem(f"did not start ({ending(process.returncode)})\n{said}")
        try:
            status, body = ask(port, workload)
        except TimeoutError:
            raise ServerProblem("no complete answer to the first request") from None
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
            time.sleep(0.001)
            continue
        except frames.ProtocolError as error:
            raise ServerProblem(f"first answer: {error}") from None
        wrong = complaint(status, body, workload, exact=exact)
        if wrong:
            raise ServerProblem(f"first answer: {wrong}")
        return
    raise ServerProblem(f"not ready after {START_TIMEOUT:.0f} s: {last}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the leader, SIGKILL to the whole session if that does not end it."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
