"""http.response.pathsend: files go out whole or not at all, whatever happens to them and to the client meanwhile."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from ladybug.asgi.awaitables import ClientDisconnected
from tests.pair import GET, LARGE, SEND, Call, Pair, Puppet, Stack, Truncated, on_every_stack, on_one_stack

CONTENT = bytes(range(256)) * 40


def path_message(path: Any) -> dict[str, Any]:
    return {"type": "http.response.pathsend", "path": path}


def length_of(size: int) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", b"%d" % size)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


async def called(pair: Pair, puppet: Puppet, request: bytes = GET) -> Call:
    await pair.send(request)
    return await puppet.call()


@pytest.mark.parametrize("headers", [length_of(len(CONTENT)), []], ids=["by length", "chunked"])
@on_every_stack
async def test_a_file_is_sent_and_the_connection_goes_on(
    stack: Stack, file: Path, headers: list[tuple[bytes, bytes]]
) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        for _ in range(3):
            call = await called(pair, puppet)
            await call.start(headers=headers)
            await call.send(path_message(str(file)))
            call.returns()
            assert (await pair.response()).content == CONTENT
        assert len(pair.access_lines()) == 3


@on_one_stack
async def test_a_file_until_the_close(stack: Stack, file: Path) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        call = await called(pair, puppet, b"GET / HTTP/1.0\r\n\r\n")
        await call.start()
        await call.send(path_message(str(file)))
        call.returns()
        assert (await pair.response()).content == CONTENT


@pytest.mark.parametrize("headers", [length_of(0), []], ids=["by length", "chunked"])
@on_one_stack
async def test_an_empty_file(stack: Stack, tmp_path: Path, headers: list[tuple[bytes, bytes]]) -> None:
    (tmp_path / "empty").touch()
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        call = await called(pair, puppet)
        await call.start(headers=headers)
        await call.send(path_message(str(tmp_path / "empty")))
        call.returns()
        assert (await pair.response()).content == b""


@on_one_stack
async def test_head_needs_no_file(stack: Stack, tmp_path: Path) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        call = await called(pair, puppet, GET.replace(b"GET", b"HEAD"))
        await call.start(headers=length_of(5))
        await call.send(path_message(str(tmp_path / "missing")))
        call.returns()
        assert (await pair.response("HEAD")).values(b"content-length") == [b"5"]
        assert pair.received == b""


@on_one_stack
async def test_a_file_behind_other_content(stack: Stack, file: Path) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        for headers in (length_of(5 + len(CONTENT)), []):
            call = await called(pair, puppet)
            await call.start(headers=headers)
            await call.body(b"hello", True)
            await call.send(path_message(str(file)))
            call.returns()
            assert (await pair.response()).content == b"hello" + CONTENT


@on_one_stack
async def test_a_part_of_a_file(stack: Stack, file: Path) -> None:
    """Content-length is a promise to the client: no more than that goes out."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        call = await called(pair, puppet)
        await call.start(headers=length_of(100))
        await call.send(path_message(str(file)))
        call.returns()
        assert (await pair.response()).content == CONTENT[:100]
        await (await called(pair, puppet)).answer(b"next")
        assert (await pair.response()).content == b"next"


@on_every_stack
async def test_a_large_file_to_a_slow_client(stack: Stack, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * (LARGE >> 20)
    path = tmp_path / "large"
    path.write_bytes(content)
    puppet = Puppet()
    async with stack.pair(puppet, little_room=True) as pair:
        for headers in (length_of(LARGE), []):
            call = await called(pair, puppet)
            await call.start(headers=headers)
            sending = asyncio.ensure_future(call.send(path_message(str(path))))
            await pair.settle()
            assert not sending.done()
            assert (await pair.response()).content == content
            await sending
            call.returns()


@on_every_stack
async def test_a_large_file_to_a_fast_client_lets_others_run(stack: Stack, tmp_path: Path) -> None:
    """It is measured in bytes, not in time: so much goes out between two turns of the loop, however busy the machine is."""
    size = 256 << 20
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, size)
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        call = await called(pair, puppet)
        await call.start(headers=length_of(size))
        await pair.until(b"\r\n\r\n")
        got, most_at_once = 0, 0
        with pair.client.dup() as sock:
            sock.setblocking(True)

            def take_all() -> None:
                nonlocal got
                buffer = bytearray(1 << 20)
                while got < size and (taken := sock.recv_into(buffer)):
                    got += taken

            taking = asyncio.ensure_future(asyncio.to_thread(take_all))
            sending = asyncio.ensure_future(call.send(path_message(str(path))))
            while not sending.done():
                before = got
                await asyncio.sleep(0)
                most_at_once = max(most_at_once, got - before)
            await taking
        await sending
        call.returns()
        assert got == size
        assert most_at_once < size // 4


# -- What goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, b"/etc/passwd", 3, Path("/etc/passwd")])
@on_one_stack
async def test_a_path_is_a_string(stack: Stack, path: Any) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        call = await called(pair, puppet)
        await call.start(headers=length_of(1))
        with pytest.raises(TypeError, match="needs a path as str"):
            await call.send(path_message(path))
        await call.body(b"x")
        call.returns()
        assert (await pair.response()).content == b"x"


@pytest.mark.parametrize("name", ["missing", "", "file/below"])
@on_every_stack
async def test_a_file_that_cannot_be_opened(stack: Stack, file: Path, name: str) -> None:
    """The application hears of it, and nothing has been sent in its place."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        call = await called(pair, puppet)
        await call.start(headers=length_of(1))
        with pytest.raises(OSError) as caught:
            await call.send(path_message(str(file.parent / name)))
        assert not isinstance(caught.value, ClientDisconnected)
        await call.body(b"x")
        call.returns()
        assert (await pair.response()).content == b"x"


@pytest.mark.parametrize("kind", ["pipe", "directory", "device"])
@on_every_stack
async def test_what_is_no_regular_file_is_not_waited_for(stack: Stack, tmp_path: Path, kind: str) -> None:
    path = {"pipe": tmp_path / "pipe", "directory": tmp_path, "device": Path("/dev/null")}[kind]
    os.mkfifo(tmp_path / "pipe")
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        call = await called(pair, puppet)
        await call.start(headers=length_of(1))
        with pytest.raises(OSError, match="Not a regular file"):
            await call.send(path_message(str(path)))
        await call.body(b"x")
        call.returns()
        assert (await pair.response()).content == b"x"


@on_every_stack
async def test_a_missing_file_that_nobody_minds_is_no_complete_response(stack: Stack, tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": length_of(5)})
        await send(path_message(str(tmp_path / "missing")))

    async with stack.pair(app) as pair:
        await pair.send(GET)
        with pytest.raises(Truncated):
            await pair.response()
        await pair.settle()
        assert pair.log.take() == ["Exception in ASGI application"]


@on_every_stack
async def test_a_file_shorter_than_the_content_length(stack: Stack, file: Path) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        call = await called(pair, puppet)
        await call.start(headers=length_of(len(CONTENT) + 1))
        with pytest.raises(RuntimeError, match="not as long as the response's content-length says"):
            await call.send(path_message(str(file)))
        call.raises(RuntimeError("as it came"))
        with pytest.raises(Truncated) as caught:
            await pair.response()
        assert caught.value.content == CONTENT
        await pair.settle()
        assert pair.log.take() == ["Exception in ASGI application"]


@pytest.mark.parametrize("headers", [length_of(LARGE), []], ids=["by length", "chunked"])
@on_every_stack
async def test_a_file_that_becomes_shorter_while_it_is_sent(
    stack: Stack, tmp_path: Path, headers: list[tuple[bytes, bytes]]
) -> None:
    """The client was promised more than there is: it must see that the response broke off, and nothing after it."""
    path = tmp_path / "large"
    path.write_bytes(b"x" * LARGE)
    puppet = Puppet()
    async with stack.pair(puppet, little_room=True) as pair:
        call = await called(pair, puppet)
        await call.start(headers=headers)
        sending = asyncio.ensure_future(call.send(path_message(str(path))))
        await pair.settle()
        os.truncate(path, LARGE // 2)
        reading = asyncio.ensure_future(pair.response())
        with pytest.raises(RuntimeError, match="not as long as"):
            await sending
        call.raises(RuntimeError("as it came"))
        with pytest.raises(Truncated) as caught:
            await reading
        assert len(caught.value.content) <= LARGE // 2
        await pair.settle()
        assert pair.log.take() == ["Exception in ASGI application"]


def contents_of(path: str) -> bytes:
    return Path(path).read_bytes() if os.access(path, os.R_OK) else b""


# Files of the kernel. The size of this one is not its content's.
STRANGE = "/sys/kernel/mm/transparent_hugepage/enabled"
STRANGE_CONTENT = contents_of(STRANGE)
# And this one cannot be sent from where it lies: sendfile(2) answers EINVAL.
UNSENDABLE = "/proc/config.gz"
UNSENDABLE_CONTENT = contents_of(UNSENDABLE)


@pytest.mark.skipif(
    not STRANGE_CONTENT or Path(STRANGE).stat().st_size <= len(STRANGE_CONTENT),
    reason="no file here whose size is larger than its content",
)
@on_one_stack
async def test_a_file_without_its_size_in_chunks(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        call = await called(pair, puppet)
        await call.start()
        with pytest.raises(RuntimeError, match="not as long as"):
            await call.send(path_message(STRANGE))
        call.raises(RuntimeError("as it came"))
        with pytest.raises(Truncated):
            await pair.response()
        await pair.settle()
        pair.log.take()


@pytest.mark.skipif(not UNSENDABLE_CONTENT, reason="no such file here")
@pytest.mark.parametrize("size", [5, len(UNSENDABLE_CONTENT)])
@on_one_stack
async def test_a_file_that_must_be_copied(stack: Stack, size: int) -> None:
    """What is copied is bounded by the content-length, as what is sent from where it lies."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        call = await called(pair, puppet)
        await call.start(headers=length_of(size))
        await call.send(path_message(UNSENDABLE))
        call.returns()
        assert (await pair.response()).content == UNSENDABLE_CONTENT[:size]
        await (await called(pair, puppet)).answer(b"next")
        assert (await pair.response()).content == b"next"


@on_every_stack
async def test_a_client_that_goes_amid_a_file(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * LARGE)
    puppet = Puppet()
    async with stack.pair(puppet, little_room=True) as pair:
        call = await called(pair, puppet)
        await call.start(headers=length_of(LARGE))
        sending = asyncio.ensure_future(call.send(path_message(str(path))))
        await pair.settle()
        await pair.exactly(10000)
        pair.reset()
        with pytest.raises(ClientDisconnected):
            await sending
        call.raises(ClientDisconnected("as it came"))
        await pair.until_true(lambda: pair.service.in_flight == 0)
        assert open_descriptors_of(path) == 0


@on_every_stack
async def test_an_application_cancelled_amid_a_file_leaves_no_descriptor(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * LARGE)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": length_of(LARGE)})
        await send(path_message(str(path)))

    async with stack.pair(app, little_room=True) as pair:
        await pair.send(GET)
        await pair.until_true(lambda: open_descriptors_of(path))
        assert pair.connection.exchange is not None
        pair.connection.exchange.cancel()
        with pytest.raises(Truncated):
            await pair.response()
        await pair.settle()
        assert open_descriptors_of(path) == 0
        assert len(pair.log.take()) == 1


@on_every_stack
async def test_a_stalled_client_is_cut_off(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * LARGE)
    puppet = Puppet()
    async with stack.pair(puppet, little_room=True) as pair:
        call = await called(pair, puppet)
        await call.start(headers=length_of(LARGE))
        sending = asyncio.ensure_future(call.send(path_message(str(path))))
        await pair.settle()
        await pair.elapse(SEND + 2)
        with pytest.raises(ClientDisconnected):
            await sending
        call.returns()
        with pytest.raises((Truncated, ConnectionResetError)):
            await pair.response()


def open_descriptors_of(path: Path) -> int:
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            count += link.samefile(path)
        except OSError:
            continue
    return count


@on_every_stack
async def test_a_client_that_is_lost_with_the_head_is_a_disconnect(stack: Stack, file: Path) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        call = await called(pair, puppet)
        await call.start(headers=length_of(len(CONTENT)))
        # The server hears of it from its own next send.
        pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pair.client.close()
        with pytest.raises(ClientDisconnected):
            await call.send(path_message(str(file)))
        call.returns()
