"""The clients people use: websockets, aiohttp, httpx-ws, two of Node's and a browser, each through one whole conversation."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_sync

from tests.integration.support import MIB, ROOT, Server, fresh_key, serve
from tests.integration.websocket.peer import APPS

TIMEOUT = 15.0
MESSAGES: list[str | bytes] = ["hi", b"hi", "", b"", "käse 🧀", "x" * 200_000, bytes(range(256)) * 500]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(f"{APPS}.scenarios:app") as running:
        yield running


def uri(server: Server, path: str) -> str:
    return f"ws://127.0.0.1:{server.port}{path}"


def test_websockets(server: Server) -> None:
    with connect_sync(uri(server, "/echo"), proxy=None) as client:
        for message in MESSAGES:
            client.send(message)
            assert client.recv(timeout=TIMEOUT) == message
        assert client.ping().wait(TIMEOUT)
    with connect_sync(uri(server, f"/close_with?{fresh_key()}&4000%20bye"), proxy=None) as client:
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=TIMEOUT)
        assert str(closed.value).startswith("received 4000 (private use) bye; then sent 4000")


def test_websockets_asyncio(server: Server) -> None:
    async def talk() -> None:
        async with connect_async(uri(server, "/echo"), proxy=None, ping_interval=0.05) as client:
            for message in MESSAGES * 10:
                await client.send(message)
                assert await asyncio.wait_for(client.recv(), TIMEOUT) == message
            for number in range(1000):
                await client.send(str(number))
            for number in range(1000):
                assert await asyncio.wait_for(client.recv(), TIMEOUT) == str(number)

    asyncio.run(talk())


@pytest.mark.parametrize("size", [16 * MIB + 1, 64 * MIB])
def test_websockets_is_told_what_was_too_large(server: Server, size: int) -> None:
    with connect_sync(uri(server, "/echo"), proxy=None, compression=None) as client:
        with pytest.raises(ConnectionClosed) as closed:
            client.send(b"x" * size)
            client.recv(timeout=TIMEOUT)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


@pytest.mark.parametrize("compress", [0, 15], ids=["plain", "deflate"])
def test_aiohttp(server: Server, compress: int) -> None:
    async def talk() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(uri(server, "/echo"), compress=compress, heartbeat=0.2) as client:
                assert bool(client.compress) is bool(compress)
                for message in MESSAGES:
                    if isinstance(message, str):
                        await client.send_str(message)
                        assert await client.receive_str(timeout=TIMEOUT) == message
                    else:
                        await client.send_bytes(message)
                        assert await client.receive_bytes(timeout=TIMEOUT) == message
            async with session.ws_connect(uri(server, f"/close_with?{fresh_key()}&4000%20bye")) as client:
                closed = await client.receive(timeout=TIMEOUT)
                assert (closed.type, closed.data, closed.extra) == (aiohttp.WSMsgType.CLOSE, 4000, "bye")
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(uri(server, f"/deny?{fresh_key()}"))
            assert refused.value.status == 401

    asyncio.run(talk())


def test_httpx_ws(server: Server) -> None:
    httpx_ws = pytest.importorskip("httpx_ws")
    with httpx.Client(trust_env=False) as http, httpx_ws.connect_ws(uri(server, "/echo"), http) as client:
        for message in MESSAGES:
            if isinstance(message, str):
                client.send_text(message)
                assert client.receive_text(timeout=TIMEOUT) == message
            else:
                client.send_bytes(message)
                assert client.receive_bytes(timeout=TIMEOUT) == message
    with httpx.Client(trust_env=False) as http, pytest.raises(httpx_ws.WebSocketUpgradeError) as refused:
        httpx_ws.connect_ws(uri(server, f"/refuse?{fresh_key()}"), http).__enter__()
    assert refused.value.response.status_code == 403


# -- Node

# Where `npm install ws` was run.
NODE_DIRECTORY = Path(os.environ.get("LADYBUG_TEST_NODE") or ROOT / ".venv" / "node")


@functools.cache
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no node here")
    return found


def converse(server: Server, kind: str, *options: str) -> None:
    # Modules are looked for beside the script, so it is run from where they are.
    script = (Path(__file__).parent / "client.mjs").read_text()
    command = [node(), *options, "--input-type=module", "-", kind, uri(server, "")]
    where = NODE_DIRECTORY if NODE_DIRECTORY.is_dir() else None
    ran = subprocess.run(command, input=script, cwd=where, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout.strip() == "OK", ran.stdout + ran.stderr


def test_ws_of_node(server: Server) -> None:
    node()
    if not (NODE_DIRECTORY / "node_modules" / "ws").is_dir():
        pytest.skip(f"ws is not installed in {NODE_DIRECTORY} (npm install ws)")
    converse(server, "ws")


def test_the_websocket_built_into_node(server: Server) -> None:
    for options in ((), ("--experimental-websocket",)):
        asked = [node(), *options, "-p", "typeof WebSocket"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
        if told.stdout.strip() == "function":
            converse(server, "builtin", *options)
            return
    pytest.skip("this node has no WebSocket of its own")


# -- a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextlib.contextmanager
def browsing(server: Server, target: str, profile: Path) -> Iterator[subprocess.Popen[str]]:
    """Chromium with a page of the server's; it ends when the page is loaded, and prints what became of it."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("there is no Chromium here")
    # Without a sandbox, because tests may be run by root; what it shows is ours.
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    address = f"http://127.0.0.1:{server.port}{target}"
    command = [found, *options, "--no-proxy-server", f"--user-data-dir={profile}", "--dump-dom", address]
    # A group of its own: it is many processes.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as browser:
        try:
            yield browser
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(browser.pid, signal.SIGKILL)


def result_of(browser: subprocess.Popen[str]) -> str:
    page, _ = browser.communicate(timeout=45)
    found = re.search('<p id="result">(.*?)</p>', page, re.DOTALL)
    assert found, page
    return found[1]


@pytest.mark.slow
def test_chromium(server: Server, tmp_path: Path) -> None:
    with browsing(server, "/page?converse", tmp_path) as browser:
        assert result_of(browser) == "OK"


@pytest.mark.slow
def test_chromium_is_told_that_the_server_stops(tmp_path: Path) -> None:
    with serve(f"{APPS}.scenarios:app") as server:
        key = fresh_key()
        with browsing(server, f"/page?stop&{key}", tmp_path) as browser:
            assert server.read_note(key) == "told"
            server.signal(signal.SIGTERM)
            assert result_of(browser) == "1012 true"
        assert server.wait() == 0
