"""A server inside a program that has its own event loop: `python examples/embedding.py`, then Ctrl+C.

What it shows: `ladybug.Server` takes no signal handlers, starts no processes and sets up no logging. The program says when
it starts, learns its port, asks how it is doing and says when it stops. Here the program counts, and its page tells how far.
"""

import asyncio
import logging
import signal
from typing import Any

import ladybug

logger = logging.getLogger("counter")


class Counter:
    """The program's own work."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0.01)

    async def page(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """The ASGI application; it reads what the other task writes, in the same loop."""
        body = f"The program has counted to {self.count}.\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def main() -> None:
    counter = Counter()
    # Port 0: any that is free. The application has no lifespan, so it is not asked about it.
    server = ladybug.Server(ladybug.Config(counter.page, port=0, lifespan="off"))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.shutdown)

    async with asyncio.TaskGroup() as tasks:
        counting = tasks.create_task(counter.run())
        serving = tasks.create_task(server.serve())
        if await server.started:
            host, port = server.sockets[0].getsockname()[:2]
            logger.info("Serving on http://%s:%d, Ctrl+C stops", host, port)
        await serving
        counting.cancel()
    logger.info("Stopped after %d requests, at %d", server.requests, counter.count)


if __name__ == "__main__":
    # The server's loggers are ladybug.error and ladybug.access; here they speak through the program's own.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    asyncio.run(main())
