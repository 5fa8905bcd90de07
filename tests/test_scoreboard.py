"""The scoreboard: what one process writes, another reads."""

from __future__ import annotations

import os
import time
from typing import cast

import pytest

from ladybug.scoreboard import Row, Scoreboard, State


def test_a_record_tells_what_its_worker_wrote() -> None:
    record = Scoreboard().claim(slot=3, generation=7, now=5.0)
    assert record.read() == Row(0, State.BOOTING, 3, 7, 5.0, 0, 0, 0)
    record.sign(4242)
    record.set_state(State.SERVING)
    record.beat(6.5, connections=1, in_flight=2, requests=1 << 40)
    assert record.read() == Row(4242, State.SERVING, 3, 7, 6.5, 1, 2, 1 << 40)


@pytest.mark.parametrize("heartbeat", [float("inf"), float("-inf"), float("nan"), 1e300, time.monotonic() + 3600])
def test_nonsense_is_no_error_of_who_reads_it(heartbeat: float) -> None:
    record = Scoreboard().claim(0, 1, 1.0)
    record.set_state(cast(State, 99))
    record.beat(heartbeat, -1, -1, -1)
    row = record.read()
    assert row.state is State.FREE
    assert row.heartbeat <= 0.0
    record.set_state(cast(State, -(2**31)))
    assert record.read().state is State.FREE


def test_there_is_a_record_for_as_many_workers_as_come() -> None:
    board = Scoreboard(200)
    records = [board.claim(slot, 1, 0.0) for slot in range(200)]  # more than fit on a page
    for number, record in enumerate(records):
        record.beat(float(number), number, number, number)
    assert [record.read().requests for record in records] == list(range(200))
    assert [board.record(record.number).read() for record in records] == [record.read() for record in records]
    with pytest.raises(OSError, match="more processes"):
        board.claim(200, 1, 0.0)
    board.release(records[7])
    assert board.claim(200, 1, 0.0).number == 7


def test_a_released_record_is_empty_and_can_be_claimed_again() -> None:
    board = Scoreboard()
    board.claim(0, 1, 0.0)
    record = board.claim(0, 2, 0.0)
    record.beat(1.0, 1, 1, 1)
    board.release(record)
    assert record.read() == Row(0, State.FREE, 0, 0, 0.0, 0, 0, 0)
    assert board.claim(0, 3, 2.0).read() == Row(0, State.BOOTING, 0, 3, 2.0, 0, 0, 0)


def test_a_forked_worker_writes_and_the_master_reads() -> None:
    record = Scoreboard().claim(0, 1, 0.0)
    pid = os.fork()
    if pid == 0:
        record.sign(os.getpid())
        record.beat(1.0, 10, 20, 30)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    row = record.read()
    assert (row.pid, row.connections, row.in_flight, row.requests) == (pid, 10, 20, 30)
