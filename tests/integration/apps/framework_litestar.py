"""A Litestar application: typed handlers, threads, uploads, streams, server-sent events, a file, background tasks."""

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from litestar import Litestar, Request, Response, get, post
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import UploadFile
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.response import File, ServerSentEvent, Stream

from tests.integration.apps.framework_notes import note


@asynccontextmanager
async def lifespan(_: Litestar) -> AsyncGenerator[None, None]:
    note("startup")
    yield
    note("shutdown")


@dataclass
class Item:
    name: str
    price: float
    tags: list[str]


@dataclass
class Form:
    title: str
    file: UploadFile


@get("/json")
async def json() -> dict[str, str]:
    return {"hello": "world"}


@get("/thread", sync_to_thread=True)
def thread() -> dict[str, bool]:
    return {"main": threading.current_thread() is threading.main_thread()}


@get("/query")
async def query(q: str) -> dict[str, str]:
    return {"q": q}


@post("/echo", status_code=200)
async def echo(data: Item) -> Item:
    return data


@post("/raw", status_code=200)
async def raw(request: Request[Any, Any, Any]) -> dict[str, object]:
    size, digest = 0, hashlib.sha256()
    async for piece in request.stream():
        size += len(piece)
        digest.update(piece)
    return {"size": size, "sha256": digest.hexdigest()}


@post("/upload", status_code=200)
async def upload(data: Annotated[Form, Body(media_type=RequestEncodingType.MULTI_PART)]) -> dict[str, object]:
    content = await data.file.read()
    return {"title": data.title, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@get("/stream")
async def stream() -> Stream:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"piece %d\n" % number
            await asyncio.sleep(0)

    return Stream(pieces(), media_type="text/plain")


@get("/events")
async def events() -> ServerSentEvent:
    async def pieces() -> AsyncIterator[str]:
        for number in range(3):
            yield str(number)
            await asyncio.sleep(0.01)

    return ServerSentEvent(pieces())


@get("/endless")
async def endless(key: str) -> Stream:
    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick\n"
                await asyncio.sleep(0.01)
        finally:
            note(f"left {key}")

    return Stream(pieces(), media_type="text/plain")


@get("/file")
async def file() -> File:
    return File(os.environ["FRAMEWORK_FILE"])


@get("/background")
async def background(key: str) -> Response[dict[str, bool]]:
    async def later() -> None:
        await asyncio.sleep(0.05)
        note(f"background {key}")

    return Response({"accepted": True}, background=BackgroundTask(later))


@get("/fail")
async def fail() -> None:
    raise RuntimeError("failed on purpose")


async def add_header(response: Response[Any]) -> Response[Any]:
    response.headers["x-middleware"] = "was here"
    return response


app = Litestar(
    [json, thread, query, echo, raw, upload, stream, events, endless, file, background, fail],
    lifespan=[lifespan],
    after_request=add_header,
    request_max_body_size=None,
)
