"""Server-sent events, a streamed table and a file: Starlette on Ladybug.

    ladybug --app-dir examples starlette_app:app
    curl -N localhost:8000/events              one event a second until you press Ctrl+C
    curl 'localhost:8000/table.csv?rows=1000000' | tail -1
    curl localhost:8000/source

What it shows: a response that has no end, and how it takes part in a graceful stop; a response of any size in constant
memory, because `send` waits for a slow client; a file that the kernel sends (http.response.pathsend).
"""

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route


async def index(_: Request) -> PlainTextResponse:
    return PlainTextResponse("Try /events, /table.csv?rows=10 and /source.\n")


async def events(request: Request) -> StreamingResponse:
    return StreamingResponse(clock(request), media_type="text/event-stream", headers={"cache-control": "no-cache"})


async def clock(request: Request) -> AsyncIterator[str]:
    """The time, once a second, for as long as the client listens.

    A server that stops tells its applications http.disconnect, as if the client had gone. Starlette leaves it to the
    stream to ask; one that never asks is cancelled when --timeout-graceful-shutdown is over.
    """
    while not await request.is_disconnected():
        yield f"event: time\ndata: {time.strftime('%H:%M:%S')}\n\n"
        await asyncio.sleep(1)


async def table(request: Request) -> StreamingResponse:
    try:
        rows = int(request.query_params.get("rows", "1000"))
    except ValueError:
        return StreamingResponse(iter(["rows must be a number\n"]), status_code=400, media_type="text/plain")
    return StreamingResponse(squares(rows), media_type="text/csv")


async def squares(rows: int) -> AsyncIterator[str]:
    yield "number,square\n"
    for first in range(0, rows, 500):
        yield "".join(f"{number},{number * number}\n" for number in range(first, min(first + 500, rows)))


async def source(_: Request) -> FileResponse:
    return FileResponse(__file__, media_type="text/plain")


app = Starlette(
    routes=[
        Route("/", index),
        Route("/events", events),
        Route("/table.csv", table),
        Route("/source", source),
    ]
)
