"""Plays bytes to the protocol core and writes down what it says, in a form that does not depend on how they were cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ladybug.protocol.fields import Field, RequestHead
from ladybug.protocol.http1 import COMPLETE, DATA, END, ERROR, NEED_DATA, REQUEST, HeadParser, Http1
from ladybug.protocol.limits import Limits


@dataclass(frozen=True)
class Head:
    """Every attribute of a RequestHead, to be compared."""

    method: str
    raw_path: bytes
    query: bytes
    encoded: bool
    http11: bool
    headers: tuple[Field, ...]
    persistent: bool
    body: int
    expect_continue: bool
    forwarded: bool
    upgrade: bool


def head_of(head: RequestHead) -> Head:
    return Head(
        head.method,
        head.raw_path,
        head.query,
        head.encoded,
        head.http11,
        tuple(head.headers),
        head.persistent,
        head.body,
        head.expect_continue,
        head.forwarded,
        head.upgrade,
    )


@dataclass
class Message:
    """One request as received: its head, its content put together, and whether its end was seen."""

    head: Head
    content: bytes = b""
    complete: bool = False


@dataclass
class Outcome:
    """All that one connection's bytes came to."""

    messages: list[Message] = field(default_factory=list)
    status: int = 0  # of the refusal, if there was one
    reason: str = ""


def play(pieces: Iterable[bytes], limits: Limits | None = None) -> Outcome:
    """Feed `pieces` one after the other, as a connection does whose every request is answered at once."""
    return Player(limits).feed_all(pieces)


class Player:
    """A connection's use of the core, and its rules checked on the way.

    Args:
        limits: the defaults if None.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.core = Http1(HeadParser(limits or Limits()))
        self.outcome = Outcome()

    def feed_all(self, pieces: Iterable[bytes]) -> Outcome:
        for piece in pieces:
            self.feed(piece)
        return self.outcome

    def feed(self, piece: bytes) -> None:
        core, outcome = self.core, self.outcome
        if outcome.status:
            assert core.next_event() == ERROR, "an error is final"
            return
        core.receive_data(piece)
        while True:
            event = core.next_event()
            if event == NEED_DATA:
                return
            if event == REQUEST:
                outcome.messages.append(Message(head_of(core.parser.head)))
            elif event == DATA:
                assert core.content, "a piece of content is never empty"
                outcome.messages[-1].content += core.content
            elif event == ERROR:
                assert core.refusal is not None
                outcome.status, outcome.reason = core.refusal.status, core.refusal.reason
                return
            else:
                assert event == END and core.state == COMPLETE
            if core.state == COMPLETE:
                outcome.messages[-1].complete = True
                core.start_next_cycle()
