"""A Django application in one file, served through its ASGI handler: sync and async views, uploads, streams, a file."""

from __future__ import annotations

import asyncio
import hashlib
import json as json_codec
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from tests.integration.apps.framework_notes import note

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for tests",
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", f"{__name__}.add_header"],
    LOGGING={"version": 1, "disable_existing_loggers": False, "loggers": {"django": {"level": "CRITICAL"}}},
)
django.setup()


def add_header(get_response: Any) -> Any:
    """An old-style synchronous middleware: Django runs it in a thread."""

    def middleware(request: Any) -> Any:
        response = get_response(request)
        response["x-middleware"] = "was here"
        return response

    return middleware


async def json(request: Any) -> Any:
    return JsonResponse({"hello": "world"})


def thread(request: Any) -> Any:
    return JsonResponse({"main": threading.current_thread() is threading.main_thread()})


async def query(request: Any) -> Any:
    return JsonResponse({"q": request.GET["q"]})


async def echo(request: Any) -> Any:
    return JsonResponse(json_codec.loads(request.body))


def raw(request: Any) -> Any:
    size, digest = 0, hashlib.sha256()
    while piece := request.read(1 << 16):
        size += len(piece)
        digest.update(piece)
    return JsonResponse({"size": size, "sha256": digest.hexdigest()})


def upload(request: Any) -> Any:
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for piece in file.chunks():
        digest.update(piece)
    return JsonResponse({"title": request.POST["title"], "size": file.size, "sha256": digest.hexdigest()})


async def stream(request: Any) -> Any:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"piece %d\n" % number
            await asyncio.sleep(0)

    return StreamingHttpResponse(pieces(), content_type="text/plain")


async def events(request: Any) -> Any:
    async def pieces() -> AsyncIterator[str]:
        for number in range(3):
            yield f"data: {number}\n\n"
            await asyncio.sleep(0.01)

    return StreamingHttpResponse(pieces(), content_type="text/event-stream")


async def endless(request: Any) -> Any:
    key = request.GET["key"]

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick\n"
                await asyncio.sleep(0.01)
        finally:
            note(f"left {key}")

    return StreamingHttpResponse(pieces(), content_type="text/plain")


def file(request: Any) -> Any:
    return FileResponse(Path(os.environ["FRAMEWORK_FILE"]).open("rb"))


async def missing(request: Any) -> Any:
    return HttpResponse("not here", status=404)


async def fail(request: Any) -> Any:
    raise RuntimeError("failed on purpose")


urlpatterns = [
    path(view.__name__, view)
    for view in (json, thread, query, echo, raw, upload, stream, events, endless, file, missing, fail)
]

app = get_asgi_application()
