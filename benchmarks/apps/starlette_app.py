"""The Starlette application: a JSON endpoint and a file of 1 MiB (BENCHMARK_FILE names it)."""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Route


async def json(request: Request) -> JSONResponse:
    return JSONResponse({"message": "Hello, World!"})


async def file(request: Request) -> FileResponse:
    return FileResponse(os.environ["BENCHMARK_FILE"], media_type="text/plain")


app = Starlette(routes=[Route("/json", json), Route("/file", file)])
