"""WebSocket frames (RFC 6455 section 5): their heads, their masks, and what a close frame may say.

    FIN RSV1-3 opcode | MASK length(7) | length(16 or 64) | masking-key | payload

Only words and arithmetic; the order in which frames may come is websocket.py's. A server sends unmasked and unfragmented
(section 5.1: "A server MUST NOT mask any frames that it sends to the client"), so a head is all that is ever written.
"""

from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any, Final

from librt.strings import BytesWriter, read_i32_le, read_i64_le, write_i16_be, write_i32_be, write_i64_be, write_i64_le
from mypy_extensions import i16, i32, i64

# Compiled integers wrap at 64 bits, interpreted ones do not and are slow: there are two ways of unmasking. For large
# payloads there is a third, with the processor's vector instructions, where the package is installed.
COMPILED: Final = not __file__.endswith(".py")


def find_apply_mask() -> Any:
    """apply_mask(data, mask) of the extension module websockets.speedups, or None.

    Without its package, which would import sixty modules and 2 to 3 MiB into every worker for one function.
    """
    package = find_spec("websockets")
    if package is None or package.submodule_search_locations is None:
        return None
    spec = PathFinder.find_spec("websockets.speedups", package.submodule_search_locations)
    if spec is None or spec.loader is None:
        return None
    module: Any = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.apply_mask


APPLY_MASK: Final[Any] = find_apply_mask()
# Unmasking 64 KiB takes it 2 us where ours takes 5, 4 KiB 0.3 where ours takes 0.4; below, the call costs more than it saves.
VECTOR_FROM: Final[i64] = 4096

# Opcodes (section 5.2); those from 8 on are control frames
CONTINUATION: Final[i64] = 0
TEXT_FRAME: Final[i64] = 1
BINARY_FRAME: Final[i64] = 2
CLOSE_FRAME: Final[i64] = 8
PING_FRAME: Final[i64] = 9
PONG_FRAME: Final[i64] = 10

FIN: Final[i64] = 0x80
RSV1: Final[i64] = 0x40  # of a message's first frame: the message is compressed (RFC 7692 section 6)
RSV2_RSV3: Final[i64] = 0x30
MASK: Final[i64] = 0x80
LENGTH16: Final[i64] = 126
LENGTH64: Final[i64] = 127
MOST_CONTROL: Final[i64] = 125  # section 5.5: "All control frames MUST have a payload length of 125 bytes or less"

# Status codes (section 7.4.1)
NORMAL_CLOSURE: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
NO_STATUS_RCVD: Final = 1005  # never on the wire: a close frame without a code
ABNORMAL_CLOSURE: Final = 1006  # never on the wire: no close frame
INVALID_DATA: Final = 1007
POLICY_VIOLATION: Final = 1008
MESSAGE_TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012  # registered with IANA after the RFC

MOST_REASON: Final = 123  # what a control frame holds beside the code

# Reused by every call; what does not fit gets a writer of its own, so that one large message is not kept for ever.
SCRATCH: Final = BytesWriter()
MOST_SCRATCH: Final[i64] = 1 << 16


def write_head(writer: BytesWriter, opcode: i64, size: i64, compressed: bool) -> None:
    """Write the head of a frame that is a whole message, or a control frame: FIN, unmasked, `size` bytes of payload."""
    # Two or four octets as one number: a call, not four. FIN is its sign.
    first: i64 = (FIN | opcode | (RSV1 if compressed else 0)) - 256
    if size < LENGTH16:
        write_i16_be(writer, i16(first << 8 | size))
    elif size < 65536:
        write_i32_be(writer, i32(first << 24 | LENGTH16 << 16 | size))
    else:
        write_i16_be(writer, i16(first << 8 | LENGTH64))
        write_i64_be(writer, size)


def close_payload(code: int, reason: str) -> bytes:
    """The payload of a close frame (section 5.5.1); a reason longer than 123 bytes is cut between two characters.

    `code` must pass is_close_code(). What UTF-8 cannot carry (lone surrogates) becomes "?".
    """
    encoded = reason.encode("utf-8", "replace")
    if len(encoded) > MOST_REASON:
        encoded = encoded[:MOST_REASON].decode("utf-8", "ignore").encode()
    return code.to_bytes(2, "big") + encoded


def is_close_code(code: int) -> bool:
    """Whether `code` may stand in a close frame: section 7.4, and what IANA has registered since (1012 to 1014)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def read_mask(data: bytes, at: i64) -> i64:
    """The masking key at data[at:at + 4], as the number that unmask() takes."""
    return i64(read_i32_le(data, at)) & 0xFFFFFFFF


def turn_mask(mask: i64, size: i64) -> i64:
    """The key for what follows `size` bytes of the same payload: octet i meets key octet i modulo 4 (section 5.3)."""
    bits: i64 = (size & 3) << 3
    return (mask >> bits | mask << (32 - bits)) & 0xFFFFFFFF


def unmask(data: bytes, start: i64, size: i64, mask: i64) -> bytes:
    """The `size` bytes from data[start] on, which must be there, without their mask.

    Args:
        mask: the key as a little-endian number of 32 bits, turned so that its lowest octet meets data[start].
    """
    if size >= VECTOR_FROM and APPLY_MASK is not None:
        # By a view: a copy would be one more time through the cache.
        unmasked: bytes = APPLY_MASK(memoryview(data)[start : start + size], int(mask).to_bytes(4, "little"))
        return unmasked
    if not COMPILED:
        key = (int(mask).to_bytes(4, "little") * (size // 4 + 1))[:size]
        masked = int.from_bytes(data[start : start + size], "little")
        return (masked ^ int.from_bytes(key, "little")).to_bytes(size, "little")
    writer = SCRATCH
    if size > MOST_SCRATCH:
        writer = BytesWriter()
    writer.truncate(0)
    word: i64 = mask | mask << 32
    i: i64 = start
    end: i64 = start + size
    while i + 32 <= end:  # four words a turn: 0.16 ns a byte
        write_i64_le(writer, read_i64_le(data, i) ^ word)
        write_i64_le(writer, read_i64_le(data, i + 8) ^ word)
        write_i64_le(writer, read_i64_le(data, i + 16) ^ word)
        write_i64_le(writer, read_i64_le(data, i + 24) ^ word)
        i += 32
    while i + 8 <= end:
        write_i64_le(writer, read_i64_le(data, i) ^ word)
        i += 8
    if i < end:
        if end >= 8:
            # The last word of the data, less what of it is done: eight bytes are written, those too many are cut off.
            write_i64_le(writer, read_i64_le(data, end - 8) >> ((8 - (end - i)) << 3) ^ word)
            writer.truncate(size)
        else:
            while i < end:
                writer.append((i64(data[i]) ^ word) & 0xFF)
                word >>= 8
                i += 1
    return writer.getvalue()
