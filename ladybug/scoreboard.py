"""The scoreboard: what each worker is doing, in memory that master and workers share.

One anonymous shared mapping (mmap(2)), made by the master before any fork, holds one fixed record per worker. Of its pages
those exist that were written to.

Rules:
- A record has one writer: the worker it was given to. The master writes it only before the fork and after the death.
- No locks. A reader may see the fields of one record from two different moments; no field is ever half written, because
  each is an aligned native integer.
- The worker writes from its event loop, twice a second, never from a thread: a blocked loop stops the heartbeat.
- Who reads believes nothing: an application that has gone wrong may have written anything anywhere.
"""

import enum
import errno
import mmap
import struct
import time
from typing import NamedTuple


class State(enum.IntEnum):
    """What a record is used for, as the worker itself sees it."""

    FREE = 0
    BOOTING = 1
    SERVING = 2
    DRAINING = 3


_STATES = {state.value: state for state in State}


class Row(NamedTuple):
    """One record, read. `heartbeat` is on the clock of time.monotonic(), which all processes of a machine share."""

    pid: int
    state: State
    slot: int
    generation: int
    heartbeat: float
    connections: int
    in_flight: int
    requests: int


_ROW = struct.Struct("=iiiidqqq")
_LIVE = struct.Struct("=dqqq")  # heartbeat, connections, in_flight, requests
_STATE_AT = 4
_LIVE_AT = 16
_SIZE = 64  # of a record: one line of the processor's cache, so that workers do not disturb each other
# Records, if nobody says how many.
_FEW = 512


class Record:
    """One worker's place on the board."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._memory = memory
        self._offset = offset

    @property
    def number(self) -> int:
        """Its place on the board; for a process that got this number and not the record."""
        return self._offset // _SIZE

    def open(self, slot: int, generation: int, now: float) -> None:
        """The master's: take the record for a worker about to be forked."""
        _ROW.pack_into(self._memory, self._offset, 0, State.BOOTING, slot, generation, now, 0, 0, 0)

    def close(self) -> None:
        """The master's: free the record of a worker that is dead."""
        _ROW.pack_into(self._memory, self._offset, 0, State.FREE, 0, 0, 0.0, 0, 0, 0)

    def sign(self, pid: int) -> None:
        """The worker's first act: put its process id there."""
        struct.pack_into("=i", self._memory, self._offset, pid)

    def set_state(self, state: State) -> None:
        """The worker's, when it changes."""
        struct.pack_into("=i", self._memory, self._offset + _STATE_AT, state)

    def beat(self, now: float, connections: int, in_flight: int, requests: int) -> None:
        """The worker's, twice a second from its event loop."""
        _LIVE.pack_into(self._memory, self._offset + _LIVE_AT, now, connections, in_flight, requests)

    def read(self) -> Row:
        """What is there. A state that there is not is FREE, and a heartbeat of the future (or NaN) is none: 0.0."""
        pid, state, slot, generation, heartbeat, *rest = _ROW.unpack_from(self._memory, self._offset)
        heart = heartbeat if heartbeat <= time.monotonic() else 0.0
        return Row(pid, _STATES.get(state, State.FREE), slot, generation, heart, *rest)


class Scoreboard:
    """All records, `most` at the same time; which of them are in use is the master's private knowledge."""

    def __init__(self, most: int = _FEW) -> None:
        self._memory = mmap.mmap(-1, most * _SIZE)
        self._most = most
        self._used = 0  # in use, or were once
        self._free: list[Record] = []

    def claim(self, slot: int, generation: int, now: float) -> Record:
        """A record for a worker about to be forked. Raises OSError when all are in use."""
        if not self._free:
            if self._used == self._most:
                raise OSError(errno.EAGAIN, "there are more processes than the scoreboard has room for")
            self._free.append(self.record(self._used))
            self._used += 1
        record = self._free.pop()
        record.open(slot, generation, now)
        return record

    def release(self, record: Record) -> None:
        """Take the record of a dead worker back."""
        record.close()
        self._free.append(record)

    def record(self, number: int) -> Record:
        """The record of this number; what is on it is not touched."""
        return Record(self._memory, number * _SIZE)
