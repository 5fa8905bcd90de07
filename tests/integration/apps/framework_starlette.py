"""A Starlette application: BaseHTTPMiddleware around everything, GZip, streams, server-sent events, files, background tasks."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from tests.integration.apps.framework_notes import note


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
    note("startup")
    yield {"greeting": "from the lifespan"}
    note("shutdown")


class AddHeader(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-middleware"] = "was here"
        return response


async def json(request: Request) -> Response:
    return JSONResponse({"hello": "world"})


def thread(request: Request) -> Response:
    return JSONResponse({"main": threading.current_thread() is threading.main_thread()})


async def query(request: Request) -> Response:
    return JSONResponse({"q": request.query_params["q"]})


async def echo(request: Request) -> Response:
    return JSONResponse(await request.json())


async def raw(request: Request) -> Response:
    size, digest = 0, hashlib.sha256()
    async for piece in request.stream():
        size += len(piece)
        digest.update(piece)
    return JSONResponse({"size": size, "sha256": digest.hexdigest()})


async def upload(request: Request) -> Response:
    async with request.form() as form:
        file, title = form["file"], form["title"]
        assert isinstance(file, UploadFile)
        digest = hashlib.sha256()
        size = 0
        while piece := await file.read(1 << 20):
            size += len(piece)
            digest.update(piece)
        return JSONResponse({"title": title, "size": size, "sha256": digest.hexdigest()})


async def stream(request: Request) -> Response:
    def pieces() -> Iterator[bytes]:
        for number in range(100):
            yield b"piece %d\n" % number

    return StreamingResponse(pieces(), media_type="text/plain")


async def events(request: Request) -> Response:
    async def pieces() -> AsyncIterator[dict[str, str]]:
        for number in range(3):
            yield {"data": str(number)}
            await asyncio.sleep(0.01)

    return EventSourceResponse(pieces(), sep="\n")


async def endless(request: Request) -> Response:
    key = request.query_params["key"]

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick\n"
                await asyncio.sleep(0.01)
        finally:
            note(f"left {key}")

    return StreamingResponse(pieces(), media_type="text/plain")


async def watch(request: Request) -> Response:
    """Asks now and then whether the client is still there, as long polls do."""
    key = request.query_params["key"]
    note(f"watching {key}")
    while not await request.is_disconnected():  # noqa: ASYNC110 - that is what long polls do
        await asyncio.sleep(0.01)
    note(f"left {key}")
    return PlainTextResponse("nobody reads this")


async def file(request: Request) -> Response:
    return FileResponse(os.environ["FRAMEWORK_FILE"])


async def background(request: Request) -> Response:
    key = request.query_params["key"]

    async def later() -> None:
        await asyncio.sleep(0.05)
        note(f"background {key}")

    return JSONResponse({"accepted": True}, background=BackgroundTask(later))


async def session(request: Request) -> Response:
    found = await run_in_threadpool(lambda: "session")
    return JSONResponse({"session": found, "greeting": request.state.greeting})


async def text(request: Request) -> Response:
    return PlainTextResponse("compress me " * 1000)


async def fail(request: Request) -> Response:
    raise RuntimeError("failed on purpose")


async def fail_in_stream(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"begun"
        await asyncio.sleep(0.01)
        raise RuntimeError("failed on purpose")

    return StreamingResponse(pieces(), media_type="text/plain")


ROUTES = [
    Route("/json", json),
    Route("/thread", thread),
    Route("/query", query),
    Route("/echo", echo, methods=["POST"]),
    Route("/raw", raw, methods=["POST", "PUT"]),
    Route("/upload", upload, methods=["POST"]),
    Route("/stream", stream),
    Route("/events", events),
    Route("/endless", endless),
    Route("/file", file),
    Route("/background", background),
    Route("/session", session),
    Route("/fail", fail),
]

# What BaseHTTPMiddleware itself keeps from working, with every server: it hides the disconnect from is_disconnected(),
# and it ends a stream properly that has failed.
BARE_ROUTES = [Route("/watch", watch), Route("/fail_in_stream", fail_in_stream)]

app = Starlette(
    routes=[
        *BARE_ROUTES,
        Mount("/gzip", routes=[Route("/text", text), *BARE_ROUTES, *ROUTES], middleware=[Middleware(GZipMiddleware)]),
        Mount("/", routes=ROUTES, middleware=[Middleware(AddHeader)]),
    ],
    lifespan=lifespan,
)
