"""Django with Channels: consumers of both kinds, a group that broadcasts, and Django's own views beside them."""

from __future__ import annotations

import json
from typing import Any

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for tests",
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    LOGGING={"version": 1, "disable_existing_loggers": False, "loggers": {"django": {"level": "CRITICAL"}}},
)
django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, WebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

from tests.integration.apps.framework_notes import note  # noqa: E402


class Echo(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)

    async def disconnect(self, code: int) -> None:
        note(f"left {code}")


class Json(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    async def receive_json(self, content: Any, **_: Any) -> None:
        await self.send_json({"got": content})

    async def disconnect(self, code: int) -> None:
        note(f"left {code}")


class Subprotocol(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        await self.accept(self.scope["subprotocols"][0], headers=[(b"x-app", b"1")])
        await self.close(4000, "bye")


class Describe(WebsocketConsumer):  # type: ignore[misc]
    """A synchronous consumer: Channels runs it in a thread."""

    def connect(self) -> None:
        self.accept()
        cookies = dict(self.scope["headers"]).get(b"cookie", b"").decode()
        found = {
            "path": self.scope["path"],
            "query": dict([self.scope["query_string"].decode().split("=")]),
            "cookie": cookies.removeprefix("session="),
            "user": self.scope["url_route"]["kwargs"]["user"],
        }
        self.send(json.dumps(found))
        self.close()


class Refuse(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        await self.close()


class Fail(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        await self.accept()
        raise RuntimeError("failed on purpose")


class Stream(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        for number in range(int(text_data or "0")):
            await self.send(str(number))


class Room(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()
        await self.send("joined")

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("room", self.channel_name)
        await self.channel_layer.group_send("room", {"type": "said", "text": "left"})

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("room", {"type": "said", "text": text_data})

    async def said(self, event: dict[str, str]) -> None:
        await self.send(event["text"])


async def page(request: Any) -> Any:
    return JsonResponse({"hello": "world"})


urlpatterns = [path("page", page)]

app = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [
                path("echo", Echo.as_asgi()),
                path("json", Json.as_asgi()),
                path("subprotocol", Subprotocol.as_asgi()),
                path("sub/<user>/describe", Describe.as_asgi()),
                path("refuse", Refuse.as_asgi()),
                path("fail", Fail.as_asgi()),
                path("stream", Stream.as_asgi()),
                path("room", Room.as_asgi()),
            ]
        ),
    }
)
