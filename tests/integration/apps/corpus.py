"""Answers every request with what the server made of it, as a Python literal; counts what it began and what it saw whole."""

from __future__ import annotations

from tests.integration.apps.kit import Receive, Scope, Send, lifespan, read_body, respond_value

# A path no case of the corpus uses.
COUNTS = "/.counts"

_began = 0
_whole = 0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    global _began, _whole
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    if scope["path"] == COUNTS:
        await respond_value(send, {"began": _began, "whole": _whole})
        return
    _began += 1
    body = await read_body(receive)
    if body is None:
        return
    _whole += 1
    seen = {
        "method": scope["method"],
        "path": scope["path"],
        "raw_path": scope["raw_path"],
        "query": scope["query_string"],
        "version": scope["http_version"],
        "headers": [tuple(pair) for pair in scope["headers"]],
        "body": body,
    }
    await respond_value(send, seen)
