"""Frames: heads as another implementation writes them, masks at every alignment, and what a close frame may say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from librt.strings import BytesWriter
from websockets.frames import Close, Frame, Opcode

from ladybug.protocol import frames
from ladybug.protocol.frames import close_payload, is_close_code, read_mask, turn_mask, unmask, write_head
from tests.protocol.frames import masked

SIZES = [0, 1, 5, 124, 125, 126, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 65537, 1 << 20]


def head(opcode: int, size: int, compressed: bool = False) -> bytes:
    writer = BytesWriter()
    write_head(writer, opcode, size, compressed)
    return writer.getvalue()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [frames.TEXT_FRAME, frames.BINARY_FRAME])
def test_heads_are_those_of_another_implementation(opcode: int, size: int) -> None:
    payload = bytes(size)
    assert head(opcode, size) + payload == Frame(Opcode(opcode), payload).serialize(mask=False)


def test_heads_of_sizes_that_need_no_payload_to_test() -> None:
    assert head(2, 1 << 40) == b"\x82\x7f\x00\x00\x01\x00\x00\x00\x00\x00"
    assert head(2, (1 << 62) + 1) == b"\x82\x7f\x40\x00\x00\x00\x00\x00\x00\x01"


@pytest.mark.parametrize("opcode", [frames.CLOSE_FRAME, frames.PING_FRAME, frames.PONG_FRAME])
def test_heads_of_control_frames(opcode: int) -> None:
    for size in (0, 1, 125):
        assert head(opcode, size) == bytes([0x80 | opcode, size])


def test_a_compressed_message_has_rsv1() -> None:
    assert head(1, 3, True) == b"\xc1\x03"
    assert head(2, 300, True) == b"\xc2\x7e\x01\x2c"


def test_heads_follow_what_is_in_the_writer() -> None:
    writer = BytesWriter()
    writer.write(b"before")
    write_head(writer, frames.PING_FRAME, 4, False)
    assert writer.getvalue() == b"before\x89\x04"


def test_close_codes() -> None:
    """Section 7.4.1, 7.4.2 and the registry: the rest is reserved, or must not be on the wire."""
    good = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, *range(3000, 5000)}
    assert {code for code in range(-1, 1 << 16) if is_close_code(code)} == good


@pytest.mark.parametrize("reason", ["", "bye", "é" * 61, "x" * 123])
def test_close_payload(reason: str) -> None:
    payload = close_payload(frames.GOING_AWAY, reason)
    assert payload == b"\x03\xe9" + reason.encode()
    assert Close.parse(payload) == Close(1001, reason)


@pytest.mark.parametrize("character", ["x", "é", "€", "𝄞"])
@pytest.mark.parametrize("before", ["", "x", "xx", "xxx"])
def test_a_long_reason_is_cut_between_characters(character: str, before: str) -> None:
    reason = before + character * 200
    kept = close_payload(frames.INTERNAL_ERROR, reason)[2:]
    assert 123 - len(character.encode()) < len(kept) <= 123
    assert reason.startswith(kept.decode())


def test_a_reason_that_utf8_cannot_carry() -> None:
    assert close_payload(1000, "a\ud800b") == b"\x03\xe8a?b"


@pytest.mark.parametrize("mask", [b"\x01\x02\x03\x04", b"\xff\xfe\xfd\xfc", b"\x00\x00\x00\x00", b"\x80\x00\x00\x80"])
def test_every_alignment_is_unmasked(mask: bytes) -> None:
    payload = bytes(range(120, 220))
    for start in range(12):
        for size in range(len(payload) + 1):
            for after in (0, 3, 9):
                data = b"?" * start + masked(payload[:size], mask) + b"!" * after
                assert unmask(data, start, size, read_mask(mask, 0)) == payload[:size], (start, size, after)


@pytest.mark.parametrize("size", [65535, 65536, 65537, 200_003])
def test_large_payloads_are_unmasked(size: int) -> None:
    payload = bytes(range(251)) * (size // 251 + 1)
    mask = read_mask(b"\x91\x02\x83\x04", 0)
    once = unmask(payload, 1, size, mask)
    assert once == masked(payload[1 : size + 1], b"\x91\x02\x83\x04")
    assert unmask(once, 0, size, mask) == payload[1 : size + 1]


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4), st.lists(st.integers(0, 300), max_size=4))
def test_masking_is_its_own_inverse_in_any_pieces(payload: bytes, mask: bytes, places: list[int]) -> None:
    data = mask + masked(payload, mask)
    key, content, at = read_mask(data, 0), b"", 0
    for place in sorted({min(place, len(payload)) for place in places} | {len(payload)}):
        content += unmask(data, 4 + at, place - at, key)
        key = turn_mask(key, place - at)
        at = place
    assert content == payload
    assert 0 <= key < 1 << 32


def test_small_payloads_leave_nothing_behind_in_the_writer_they_share() -> None:
    assert unmask(b"secret" * 20, 0, 120, 0) == b"secret" * 20
    assert unmask(b"ab", 0, 2, 0) == b"ab"
    assert unmask(b"", 0, 0, 0) == b""
