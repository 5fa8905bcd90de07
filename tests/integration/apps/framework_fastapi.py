"""A FastAPI application as people write them: models, dependencies, threads, uploads, streams, middleware, background tasks."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, Form, HTTPException, Request, Response, UploadFile
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel

from tests.integration.apps.framework_notes import note


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
    note("startup")
    yield {"greeting": "from the lifespan"}
    note("shutdown")


app = FastAPI(lifespan=lifespan)


class Item(BaseModel):
    name: str
    price: float
    tags: list[str] = []


@app.middleware("http")
async def add_header(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers["x-middleware"] = "was here"
    return response


def session() -> Iterator[str]:
    yield "session"
    note("session closed")


@app.get("/json")
async def json() -> dict[str, str]:
    return {"hello": "world"}


@app.get("/thread")
def thread() -> dict[str, bool]:
    return {"main": threading.current_thread() is threading.main_thread()}


@app.get("/query")
async def query(q: str) -> dict[str, str]:
    return {"q": q}


@app.post("/echo")
async def echo(item: Item) -> Item:
    return item


@app.post("/raw")
async def raw(request: Request) -> dict[str, object]:
    size, digest = 0, hashlib.sha256()
    async for piece in request.stream():
        size += len(piece)
        digest.update(piece)
    return {"size": size, "sha256": digest.hexdigest()}


@app.post("/upload")
async def upload(file: UploadFile, title: Annotated[str, Form()]) -> dict[str, object]:
    digest = hashlib.sha256()
    size = 0
    while piece := await file.read(1 << 20):
        size += len(piece)
        digest.update(piece)
    return {"title": title, "size": size, "sha256": digest.hexdigest()}


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"piece %d\n" % number
            await asyncio.sleep(0)

    return StreamingResponse(pieces(), media_type="text/plain")


@app.get("/events")
async def events() -> StreamingResponse:
    async def pieces() -> AsyncIterator[str]:
        for number in range(3):
            yield f"data: {number}\n\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(pieces(), media_type="text/event-stream")


@app.get("/endless")
async def endless(key: str) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick\n"
                await asyncio.sleep(0.01)
        finally:
            note(f"left {key}")

    return StreamingResponse(pieces(), media_type="text/plain")


@app.get("/file")
async def file() -> FileResponse:
    return FileResponse(os.environ["FRAMEWORK_FILE"])


@app.get("/background")
async def background(key: str, tasks: BackgroundTasks) -> dict[str, bool]:
    async def later() -> None:
        await asyncio.sleep(0.05)
        note(f"background {key}")

    tasks.add_task(later)
    return {"accepted": True}


@app.get("/session")
async def with_session(found: Annotated[str, Depends(session)], request: Request) -> dict[str, str]:
    return {"session": found, "greeting": request.state.greeting}


@app.get("/missing")
async def missing() -> None:
    raise HTTPException(404, "not here")


@app.get("/fail")
async def fail() -> None:
    raise RuntimeError("failed on purpose")
