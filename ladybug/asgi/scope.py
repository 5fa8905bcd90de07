"""From a request head to the ASGI scope, of HTTP and of WebSocket (ASGI www specification, spec_version 2.5).

One template per worker, copied for each request; the dictionaries in it (asgi, state, extensions) are copied with it, so
that no request sees what another's application did to them.
"""

from typing import Any, Final
from urllib.parse import unquote_to_bytes

from ladybug.asgi.service import Service
from ladybug.protocol.fields import RequestHead

Address = tuple[str, int | None]

SPEC_VERSION: Final = "2.5"

# Requests get a copy; the values are the specification's empty dictionaries.
EXTENSIONS: Final[tuple[str, ...]] = (
    "http.response.pathsend",
    "http.response.early_hint",
    "http.response.trailers",
)


def scope_template(root_path: str) -> dict[str, Any]:
    """The keys of every HTTP scope, in their final order; build_scope() fills in the rest."""
    return {
        "type": "http",
        "asgi": {},
        "http_version": "1.1",
        "server": None,
        "client": None,
        "scheme": "http",
        "method": "GET",
        "root_path": root_path,
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
        "extensions": {},
    }


def build_scope(service: Service, head: RequestHead, client: Address | None, server: Address | None) -> dict[str, Any]:
    """The scope of one request.

    As with uvicorn, `path` is root_path + path, percent-decoded as UTF-8; `raw_path` is untouched, as the
    specification wants it.
    """
    template = service.scope_template
    if server is not service.server:  # all clients of a listener see the same address, so it stands in the template
        service.server = server
        template["server"] = server
    scope = template.copy()
    scope["asgi"] = service.asgi.copy()
    scope["extensions"] = service.extensions.copy()
    if not head.http11:
        scope["http_version"] = "1.0"
    scope["client"] = client
    if head.method != "GET":
        scope["method"] = head.method
    raw_path = head.raw_path
    path = decode_path(raw_path) if head.encoded else raw_path.decode("latin-1")
    scope["path"] = service.root_path + path if service.root_path and path != "*" else path
    scope["raw_path"] = raw_path
    if head.query:
        scope["query_string"] = head.query
    scope["headers"] = head.headers
    if service.state is not None:
        scope["state"] = service.state.copy()
    if head.forwarded and service.trust is not None:
        service.trust.apply(scope)
    return scope


def build_websocket_scope(
    service: Service, head: RequestHead, client: Address | None, server: Address | None, subprotocols: list[str]
) -> dict[str, Any]:
    """The scope of a WebSocket ("WebSocket connection scope"): that of its handshake, but for what is HTTP's."""
    scope = build_scope(service, head, client, server)
    del scope["method"]
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
    scope["subprotocols"] = subprotocols
    scope["extensions"] = {"websocket.http.response": {}}
    return scope


def decode_path(raw_path: bytes) -> str:
    """Percent-decode; octets that are not UTF-8 become U+FFFD, as everywhere in Python's URL handling."""
    return unquote_to_bytes(raw_path).decode("utf-8", "replace")
