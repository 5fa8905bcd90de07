"""A Quart application: JSON, uploads, streams, server-sent events, a file, background tasks, its own lifespan hooks."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from typing import Any

from quart import Quart, Response, request, send_file
from quart.utils import run_sync

from tests.integration.apps.framework_notes import note

app = Quart(__name__)
app.config["MAX_CONTENT_LENGTH"] = None


@app.before_serving
async def startup() -> None:
    note("startup")


@app.after_serving
async def shutdown() -> None:
    note("shutdown")


@app.after_request
async def add_header(response: Any) -> Any:
    response.headers["x-middleware"] = "was here"
    return response


@app.get("/json")
async def json() -> dict[str, str]:
    return {"hello": "world"}


@app.get("/thread")
async def thread() -> dict[str, bool]:
    return {"main": await run_sync(lambda: threading.current_thread() is threading.main_thread())()}


@app.get("/query")
async def query() -> dict[str, str]:
    return {"q": request.args["q"]}


@app.post("/echo")
async def echo() -> Any:
    return await request.get_json()


@app.post("/raw")
async def raw() -> dict[str, object]:
    size, digest = 0, hashlib.sha256()
    async for piece in request.body:
        size += len(piece)
        digest.update(piece)
    return {"size": size, "sha256": digest.hexdigest()}


@app.post("/upload")
async def upload() -> dict[str, object]:
    file = (await request.files)["file"]
    content = file.read()
    title = (await request.form)["title"]
    return {"title": title, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@app.get("/stream")
async def stream() -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"piece %d\n" % number
            await asyncio.sleep(0)

    return Response(pieces(), mimetype="text/plain")


@app.get("/events")
async def events() -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"data: %d\n\n" % number
            await asyncio.sleep(0.01)

    return Response(pieces(), mimetype="text/event-stream")


@app.get("/endless")
async def endless() -> Response:
    key = request.args["key"]

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick\n"
                await asyncio.sleep(0.01)
        finally:
            note(f"left {key}")

    response = Response(pieces(), mimetype="text/plain")
    response.timeout = None
    return response


@app.get("/file")
async def file() -> Response:
    return await send_file(os.environ["FRAMEWORK_FILE"])


@app.get("/background")
async def background() -> dict[str, bool]:
    key = request.args["key"]

    async def later() -> None:
        await asyncio.sleep(0.05)
        note(f"background {key}")

    app.add_background_task(later)
    return {"accepted": True}


@app.get("/fail")
async def fail() -> str:
    raise RuntimeError("failed on purpose")
