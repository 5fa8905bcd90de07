"""FastAPI, Starlette, Django, Quart and Litestar applications, unmodified, through httpx, aiohttp and curl."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from tests.integration.support import DEADLINE, Server, Truncated, fresh_key, request_bytes, serve

FRAMEWORKS = ("fastapi", "starlette", "django", "quart", "litestar")
WITH_LIFESPAN = ("fastapi", "starlette", "quart", "litestar")
UPLOAD_SIZE = 50_000_000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 MB that do not compress and do not repeat soon."""
    path = tmp_path_factory.mktemp("frameworks") / "file.bin"
    block = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(31_250))
    path.write_bytes(block * (UPLOAD_SIZE // len(block)))
    return path


@pytest.fixture(scope="module")
def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module", params=FRAMEWORKS)
def server(request: pytest.FixtureRequest, file: Path) -> Iterator[Server]:
    name: str = request.param
    # In a worker under a master: the way applications are really run.
    with serve(f"framework_{name}:app", workers=1, env={"FRAMEWORK_FILE": str(file)}) as running:
        yield running
        assert running.stop() == 0
        if name in WITH_LIFESPAN:
            assert running.output.text("stdout").count("APP startup\n") == 1
            assert running.output.text("stdout").count("APP shutdown\n") == 1


@pytest.fixture(scope="module")
def starlette(file: Path) -> Iterator[Server]:
    with serve("framework_starlette:app", env={"FRAMEWORK_FILE": str(file)}) as running:
        yield running


@pytest.fixture(scope="module")
def fastapi(file: Path) -> Iterator[Server]:
    with serve("framework_fastapi:app", env={"FRAMEWORK_FILE": str(file)}) as running:
        yield running


def url(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.port}{path}"


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url(server, ""), timeout=DEADLINE, trust_env=False) as client:
        yield client


def curl(server: Server, path: str, *options: str) -> bytes:
    command = ["curl", "-sS", "--fail-with-body", "--max-time", "30", "--noproxy", "*", *options, url(server, path)]
    return subprocess.run(command, check=True, capture_output=True).stdout


ITEM = {"name": "käse", "price": 1.5, "tags": ["a", "b"]}
PIECES = b"".join(b"piece %d\n" % number for number in range(100))


# -- every framework


def test_json_is_served_again_and_again(http: httpx.Client) -> None:
    for _ in range(20):
        response = http.get("/json")
        assert (response.status_code, response.json()) == (200, {"hello": "world"})
    assert response.headers["content-length"] == str(len(response.content))


def test_middleware_runs(http: httpx.Client) -> None:
    assert http.get("/json").headers["x-middleware"] == "was here"


def test_a_synchronous_endpoint_runs_in_a_thread(http: httpx.Client) -> None:
    assert [http.get("/thread").json() for _ in range(5)] == [{"main": False}] * 5


def test_the_query_arrives_decoded(http: httpx.Client) -> None:
    assert http.get("/query", params={"q": "ä b&c=d+e"}).json() == {"q": "ä b&c=d+e"}


def test_json_is_parsed_and_answered(http: httpx.Client) -> None:
    assert http.post("/echo", json=ITEM).json() == ITEM


def test_a_stream_arrives_whole(http: httpx.Client) -> None:
    response = http.get("/stream")
    assert response.content == PIECES
    assert response.headers["transfer-encoding"] == "chunked"


def test_server_sent_events_arrive_one_by_one(http: httpx.Client) -> None:
    with http.stream("GET", "/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        data = [line.partition(":")[2].strip() for line in response.iter_lines() if line.startswith("data:")]
    assert data == ["0", "1", "2"]


def test_a_file_arrives_whole(http: httpx.Client, digest: str) -> None:
    response = http.get("/file")
    assert hashlib.sha256(response.content).hexdigest() == digest


def test_a_multipart_upload_of_50_mb_arrives_whole(http: httpx.Client, file: Path, digest: str) -> None:
    with file.open("rb") as content:
        response = http.post("/upload", files={"file": content}, data={"title": "tïtle"}, timeout=60)
    assert response.json() == {"title": "tïtle", "size": UPLOAD_SIZE, "sha256": digest}


def test_a_chunked_upload_arrives_whole(http: httpx.Client, file: Path, digest: str) -> None:
    def pieces() -> Iterator[bytes]:
        with file.open("rb") as content:
            while piece := content.read(123_457):
                yield piece

    assert http.post("/raw", content=pieces(), timeout=60).json() == {"size": UPLOAD_SIZE, "sha256": digest}


def test_an_error_is_a_500_and_the_connection_goes_on(http: httpx.Client, server: Server) -> None:
    assert http.get("/fail").status_code == 500
    server.permit_error("failed on purpose")
    assert http.get("/json").status_code == 200


def test_a_client_that_leaves_a_stream_ends_it(server: Server) -> None:
    key = fresh_key()
    with server.connect() as client:
        client.send(request_bytes(f"/endless?key={key}"))
        assert client.read_head().status == 200
        client.read(100)
    server.output.wait_for(f"APP left {key}\n")


def test_300_posts_over_50_connections_with_aiohttp(server: Server) -> None:
    async def post_all() -> list[Any]:
        connector = aiohttp.TCPConnector(limit=50)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

            async def post(number: int) -> Any:
                async with session.post(url(server, "/echo"), json={**ITEM, "price": number + 0.5}) as response:
                    return await response.json()

            return await asyncio.gather(*(post(number) for number in range(300)))

    assert asyncio.run(post_all()) == [{**ITEM, "price": number + 0.5} for number in range(300)]


def test_streams_and_uploads_with_aiohttp(server: Server, file: Path, digest: str) -> None:
    async def both() -> tuple[bytes, Any]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            async with session.get(url(server, "/stream")) as response:
                streamed = await response.read()
            form = aiohttp.FormData({"title": "t"})
            with file.open("rb") as content:
                form.add_field("file", content, filename="file.bin")
                async with session.post(url(server, "/upload"), data=form) as response:
                    return streamed, await response.json()

    streamed, uploaded = asyncio.run(both())
    assert streamed == PIECES
    assert uploaded == {"title": "t", "size": UPLOAD_SIZE, "sha256": digest}


def test_curl_gets_posts_and_uploads(server: Server, file: Path, digest: str) -> None:
    assert json.loads(curl(server, "/json")) == {"hello": "world"}
    assert json.loads(curl(server, "/json", "--http1.0")) == {"hello": "world"}
    assert curl(server, "/stream") == PIECES
    assert curl(server, "/stream", "--http1.0") == PIECES
    body = json.dumps(ITEM)
    assert json.loads(curl(server, "/echo", "--json", body)) == ITEM
    # curl expects a 100 before it sends this much.
    uploaded = json.loads(curl(server, "/upload", "-F", f"file=@{file}", "-F", "title=t", "-H", "Expect: 100-continue"))
    assert uploaded == {"title": "t", "size": UPLOAD_SIZE, "sha256": digest}
    options = ("-X", "POST", "-T", str(file), "-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue")
    assert json.loads(curl(server, "/raw", *options)) == {"size": UPLOAD_SIZE, "sha256": digest}


def test_curl_keeps_its_connection(server: Server) -> None:
    options = ("-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n")
    both = curl(server, "/json", *options, "--next", "-sS", "--noproxy", "*", *options, url(server, "/query?q=1"))
    assert both.split() == [b"200", b"1", b"200", b"0"]


# -- Starlette and FastAPI in depth


def test_work_in_the_background_follows_the_response(starlette: Server, fastapi: Server) -> None:
    for server in (starlette, fastapi):
        key = fresh_key()
        with server.connect() as client:
            assert json.loads(client.request(f"/background?key={key}").body) == {"accepted": True}
            assert json.loads(client.request("/json").body) == {"hello": "world"}
        server.output.wait_for(f"APP background {key}\n")


def test_dependencies_and_lifespan_state_work(starlette: Server, fastapi: Server) -> None:
    for server in (starlette, fastapi):
        found = json.loads(server.request("/session").body)
        assert found == {"session": "session", "greeting": "from the lifespan"}
    fastapi.output.wait_for("APP session closed\n")


def test_http_exceptions_and_validation_errors_are_answered(fastapi: Server) -> None:
    assert fastapi.request("/missing").status == 404
    assert fastapi.request("/query").status == 422
    assert fastapi.request("/echo", method="POST", headers=["Content-Type: application/json"], body=b"{").status == 422


def test_a_disconnect_is_seen_through_middleware(starlette: Server) -> None:
    for path in ("/watch", "/gzip/watch"):
        key = fresh_key()
        with starlette.connect() as client:
            client.send(request_bytes(f"{path}?key={key}"))
            starlette.output.wait_for(f"APP watching {key}\n")
        starlette.output.wait_for(f"APP left {key}\n")


def test_a_hundred_clients_that_leave_their_streams_end_them_all(starlette: Server) -> None:
    keys = [fresh_key() for _ in range(100)]
    clients = [starlette.connect() for _ in keys]
    for client, key in zip(clients, keys, strict=True):
        client.send(request_bytes(f"/endless?key={key}"))
    for client in clients:
        assert client.read_head().status == 200
    for number, client in enumerate(clients):
        client.reset() if number % 2 else client.close()
    for key in keys:
        starlette.output.wait_for(f"APP left {key}\n")


def test_a_stream_that_fails_is_visibly_broken(starlette: Server) -> None:
    with starlette.connect() as client:
        client.send(request_bytes("/fail_in_stream"))
        with pytest.raises(Truncated) as cut:
            client.read_response()
    assert cut.value.response is not None
    assert cut.value.response.body == b"begun"
    starlette.expect_error("failed on purpose")


def test_compressed_responses_are_framed_right(starlette: Server) -> None:
    with starlette.connect() as client:
        for path, expected in (("/gzip/text", b"compress me " * 1000), ("/gzip/stream", PIECES)):
            response = client.request(path, headers=["Accept-Encoding: gzip"])
            assert response.get(b"content-encoding") == b"gzip"
            assert gzip.decompress(response.body) == expected


@pytest.mark.parametrize("path", ["/file", "/gzip/file"])
def test_files_answer_ranges_and_heads(starlette: Server, file: Path, path: str) -> None:
    content = file.read_bytes()
    with starlette.connect() as client:
        response = client.request(path, headers=["Range: bytes=1000-1999"])
        assert (response.status, response.body) == (206, content[1000:2000])
        head = client.request(path, method="HEAD")
        assert head.get(b"content-length") == b"%d" % len(content)
        response = client.request(path, headers=["Range: bytes=-10"])
        assert (response.status, response.body) == (206, content[-10:])
        etag = head.get(b"etag")
        assert etag is not None
        assert client.request("/json").status == 200


def test_an_upload_that_breaks_off_is_no_traceback_storm(starlette: Server, fastapi: Server) -> None:
    for server in (starlette, fastapi):
        server.permit_error("ClientDisconnect")
        for _ in range(10):
            with server.connect() as client:
                client.send(request_bytes("/raw", method="POST", headers=["Content-Length: 1000"]) + b"x" * 500)
        assert json.loads(server.request("/json").body) == {"hello": "world"}


def test_a_thousand_threaded_requests_at_once_are_all_served(fastapi: Server) -> None:
    async def ask_all() -> list[int]:
        connector = aiohttp.TCPConnector(limit=100)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:

            async def ask() -> int:
                async with session.get(url(fastapi, "/thread")) as response:
                    await response.read()
                    return response.status

            return await asyncio.gather(*(ask() for _ in range(1000)))

    assert asyncio.run(ask_all()) == [200] * 1000
