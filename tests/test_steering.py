"""Steering: the program that is made, by interpreting it; and what the kernel does with it, by connecting."""

from __future__ import annotations

import select
import socket
import sys
from collections import Counter
from collections.abc import Collection, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladybug import steering
from ladybug.config import Config
from ladybug.listeners import open_listeners
from ladybug.steering import Instruction, Steering, program

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has reuseport groups with programs")


# -- the program


def run(code: list[Instruction], random: int) -> int:
    """What the program returns when the kernel's random number is `random`: an interpreter of the instructions we use."""
    accumulator = position = 0
    while True:
        operation, if_true, if_false, operand = code[position]
        position += 1
        if operation == steering.LOAD:
            assert operand == 0xFFFFF038, "SKF_AD_OFF + SKF_AD_RANDOM"
            accumulator = random
        elif operation == steering.MODULO:
            accumulator %= operand
        elif operation == steering.ADD:
            accumulator = (accumulator + operand) & 0xFFFFFFFF
        elif operation == steering.JUMP_AT_LEAST:
            assert 0 <= if_true <= 255
            assert 0 <= if_false <= 255
            position += if_true if accumulator >= operand else if_false
        else:
            assert operation == steering.RETURN
            return accumulator


@pytest.mark.parametrize(
    "indices",
    [[0], [5], [0, 1, 2, 3], [1, 3], [0, 2, 3, 7], list(range(300)), list(range(0, 600, 2)), [0, 299]],
    ids=str,
)
def test_every_index_is_chosen_by_the_same_share_of_random_numbers(indices: list[int]) -> None:
    code = program(indices)
    chosen = Counter(run(code, random) for random in range(10 * len(indices)))
    assert chosen == dict.fromkeys(indices, 10)


@given(st.sets(st.integers(0, 400), min_size=1), st.integers(0, 2**32 - 1))
def test_nothing_else_is_chosen(indices: set[int], random: int) -> None:
    assert run(program(indices), random) in indices


def test_a_program_for_hundreds_of_slots_stays_short() -> None:
    """The kernel takes 4096 instructions (BPF_MAXINSNS) from anybody; with every other slot left out it is the longest."""
    assert len(program(range(300))) == 4
    assert len(program(range(0, 600, 2))) <= 3 * 300 + 2


# -- the kernel


class Group:
    """Listeners as the master has them, and who gets new connections."""

    def __init__(self, slots: int, host: str = "127.0.0.1") -> None:
        self.config = Config("app:app", host=host, port=0)
        self.listeners = dict(enumerate(open_listeners(self.config, slots)))
        self.steering = Steering(list(self.listeners.values()))

    def receivers(self, connections: int = 60, bind: int = 0) -> set[int]:
        """The slots that get some of the next connections."""
        address = self.listeners[next(iter(self.listeners))][bind].getsockname()
        clients = [socket.create_connection(address[:2], timeout=10) for _ in range(connections)]
        slots = {listeners[bind]: slot for slot, listeners in self.listeners.items()}
        receivers = set()
        while connections:
            waiting, _, _ = select.select(slots, [], [], 10)
            assert waiting, "a connection has reached none of the listeners"
            for listener in waiting:
                connections -= taken(listener)
                receivers.add(slots[listener])
        for client in clients:
            client.close()
        return receivers

    def add(self, slot: int) -> None:
        first = self.listeners[next(iter(self.listeners))]
        self.listeners[slot] = [join(listener) for listener in first]
        self.steering.add(slot, self.listeners[slot])

    def close(self) -> None:
        for listeners in self.listeners.values():
            for listener in listeners:
                listener.close()


def join(member: socket.socket) -> socket.socket:
    """A further listener of the same address."""
    listener = socket.socket(member.family)
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(member.getsockname())
    listener.listen(100)
    return listener


def taken(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


@pytest.fixture
def group() -> Iterator[Group]:
    group = Group(4)
    yield group
    group.close()


@linux
@pytest.mark.parametrize("wanted", [{0}, {3}, {1, 2}, {0, 1, 3}])
def test_only_the_slots_that_may_receive_get_connections(group: Group, wanted: set[int]) -> None:
    assert group.steering.steer(wanted)
    assert group.receivers() == wanted


@linux
@pytest.mark.parametrize("wanted", [set(), {0, 1, 2, 3}, {7}], ids=["nobody", "everybody", "who is not there"])
def test_without_anybody_to_leave_out_the_kernel_spreads_again(group: Group, wanted: Collection[int]) -> None:
    group.steering.steer({2})
    assert group.receivers() == {2}
    assert group.steering.steer(wanted)
    assert group.receivers() == {0, 1, 2, 3}


@linux
def test_all_addresses_of_a_host_are_steered() -> None:
    group = Group(3, host="localhost")
    try:
        group.steering.steer({1})
        for bind in range(len(group.listeners[0])):
            assert group.receivers(20, bind) == {1}
    finally:
        group.close()


@linux
def test_slots_keep_their_indices_right_while_others_go_and_come(group: Group) -> None:
    """The last of a group takes the index of one that leaves."""

    def leave(slot: int) -> None:
        group.steering.steer(set(group.listeners) - {slot})
        for listener in group.listeners.pop(slot):
            listener.close()
        group.steering.remove(slot)

    def check() -> None:
        for slot in group.listeners:
            assert group.steering.steer({slot})
            assert group.receivers(20) == {slot}

    leave(1)
    check()
    group.add(1)
    check()
    leave(0)
    leave(3)
    check()
    group.add(4)
    group.add(0)
    check()
    leave(0)  # the last one
    check()


@linux
def test_a_listener_leaves_the_group_with_its_last_descriptor_or_when_it_is_shut_down(group: Group) -> None:
    group.steering.steer({3})
    copy = group.listeners[0][0].dup()
    group.listeners.pop(0)[0].close()
    # Still there, for all the kernel knows: nobody's index has changed.
    assert group.receivers(20) == {3}
    copy.shutdown(socket.SHUT_RD)
    group.steering.remove(0)
    group.steering.steer({3})
    assert group.receivers(20) == {3}
    copy.close()
    assert group.receivers(20) == {3}


@linux
def test_a_slot_that_comes_gets_nothing_before_it_is_steered_to(group: Group) -> None:
    group.steering.steer({0, 1})
    group.add(4)
    assert group.receivers() == {0, 1}
    group.steering.steer({0, 4})
    assert group.receivers() == {0, 4}


@linux
def test_what_waits_in_a_queue_stays_there(group: Group) -> None:
    group.steering.steer({2})
    with socket.create_connection(group.listeners[2][0].getsockname(), timeout=10):
        assert select.select([group.listeners[2][0]], [], [], 10)[0]
        group.steering.steer({0, 1, 3})
        assert taken(group.listeners[2][0]) == 1


@linux
def test_a_program_that_a_predecessor_left_is_taken_away(group: Group) -> None:
    group.steering.steer({0})
    successor = Steering(list(group.listeners.values()), inherited=True)
    assert successor.steer({0, 1, 2, 3})
    assert group.receivers() == {0, 1, 2, 3}


@linux
def test_hundreds_of_slots_can_be_steered() -> None:
    group = Group(300)
    try:
        assert group.steering.steer(range(0, 300, 2)), group.steering.unavailable
        assert all(slot % 2 == 0 for slot in group.receivers(100))
    finally:
        group.close()


@linux
def test_a_kernel_that_cannot_take_a_program_away_gets_one_that_leaves_nobody_out(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "_SO_DETACH_REUSEPORT_BPF", 9999)  # ENOPROTOOPT, as before Linux 5.3
    group.steering.steer({0})
    assert group.steering.steer({0, 1, 2, 3})
    assert group.receivers() == {0, 1, 2, 3}


@linux
def test_a_kernel_that_refuses_is_asked_once(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "_SO_ATTACH_REUSEPORT_CBPF", 9999)
    assert not group.steering.steer({0})
    assert "Protocol not available" in group.steering.unavailable
    monkeypatch.undo()
    assert not group.steering.steer({0})
    assert group.receivers() == {0, 1, 2, 3}


@linux
def test_a_kernel_that_refuses_later_keeps_nothing_of_what_it_took_before(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(3, host="localhost")
    try:
        assert group.steering.steer({0})
        monkeypatch.setattr(steering, "_SO_ATTACH_REUSEPORT_CBPF", 9999)
        assert not group.steering.steer({1, 2})
        for bind in range(len(group.listeners[0])):
            assert group.receivers(bind=bind) == {0, 1, 2}
    finally:
        group.close()


# -- where there is nothing to steer


def test_a_unix_socket_is_left_alone() -> None:
    with socket.socket(socket.AF_UNIX) as shared:
        alone = Steering([[shared], [shared]])
        assert not alone.steer({0})
        assert "Unix socket" in alone.unavailable


def test_an_inherited_socket_is_left_alone() -> None:
    with socket.socket() as shared:
        for slots in (1, 2):
            alone = Steering([[shared]] * slots)
            alone.steer({0})
            if slots == 1:
                alone.add(1, [shared])
            assert not alone.steer({0})
            assert alone.unavailable


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with socket.socket() as one, socket.socket() as other:
        alone = Steering([[one], [other]])
        assert not alone.steer({0})
        assert alone.unavailable == "only Linux can"
