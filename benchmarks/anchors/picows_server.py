"""A bare picows server: WebSocket from Python callbacks, on uvloop, with no ASGI between. An anchor for the comparison.

usage: picows_server.py PORT echo|broadcast
"""

import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server


class Echo(WSListener):  # type: ignore[misc]  # picows need not be installed where types are checked
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            self.answer(transport, frame)

    def answer(self, transport: WSTransport, frame: WSFrame) -> None:
        transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class Broadcast(Echo):
    room: set[WSTransport] = set()  # noqa: RUF012  the room of all

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.room.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.room.discard(transport)

    def answer(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        for other in self.room:
            other.send(frame.msg_type, payload)


async def main() -> None:
    listener = Broadcast if sys.argv[2] == "broadcast" else Echo

    def listener_of(request: WSUpgradeRequest) -> WSListener:
        return listener()

    server = await ws_create_server(listener_of, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


uvloop.run(main())
