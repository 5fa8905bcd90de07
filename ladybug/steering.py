"""Steering: which slot the kernel gives a new connection to.

All listeners of one address are a group (SO_REUSEPORT, socket(7)), from which the kernel picks one for each SYN. A program
in classic BPF that is attached to the group picks instead, among the slots that may receive: one that boots, drains, hangs
or is dead gets nothing. It takes one system call per address, and no privilege.

Facts about groups, from net/core/sock_reuseport.c and found again by tests:
- The program returns an index. Listeners are counted in the order of their listen(2), not of their bind(2).
- One that leaves gives its index to the last one. It leaves when its last descriptor is closed, in whatever process, or
  when one of them is shut down.
- An index that nobody has falls back to the kernel's own choice, by hash.
- The program belongs to the group: any member attaches, replaces or detaches it, and the others keep it when that one goes.
- It sees only SYNs. What was in a queue before stays there; that is `rescue.py`.

Where nothing is to be left out no program is attached. Unix sockets, inherited ones and other systems have no groups of ours:
`Steering.steer` says so, and everything works as before.

`program` is a pure function; `Steering` keeps count of indices and installs what `program` makes.
"""

import contextlib
import errno
import socket
import struct
import sys
from array import array
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby

# asm-generic/socket.h; the socket module does not name them.
_SO_ATTACH_REUSEPORT_CBPF = 51
_SO_DETACH_REUSEPORT_BPF = 68

# One instruction (linux/filter.h): code, jump if true, jump if false, operand. Jumps count from the next instruction.
Instruction = tuple[int, int, int, int]

# bpf_common.h and filter.h: class | size or operation | source.
LOAD = 0x20  # A = the word at `operand`
MODULO = 0x94  # A %= operand
ADD = 0x04  # A += operand
JUMP_AT_LEAST = 0x35  # if A >= operand
RETURN = 0x16  # return A
# Not a word of the packet, but a new random number: SKF_AD_OFF + SKF_AD_RANDOM.
RANDOM = 0xFFFFF000 + 56


def program(indices: Collection[int]) -> list[Instruction]:
    """A program that returns one of `indices`, each equally often. There is at least one.

    It draws a rank, from 0 to the number of indices, and adds to it what was left out before. Neighbours share an addend,
    so with nothing left out there are three instructions, and three more at most for each gap; no jump is longer than two.
    """
    instructions: list[Instruction] = [(LOAD, 0, 0, RANDOM), (MODULO, 0, 0, len(indices))]
    runs = list(_runs(indices))
    for end, gap in runs[:-1]:
        instructions += [(JUMP_AT_LEAST, 2, 0, end), (ADD, 0, 0, gap), (RETURN, 0, 0, 0)]
    _, gap = runs[-1]
    return [*instructions, (ADD, 0, 0, gap), (RETURN, 0, 0, 0)]


def _runs(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Indices that follow one another, as pairs: the rank behind the last of them, and index - rank, which they share."""
    ranked = enumerate(sorted(set(indices)))
    return [([rank for rank, _ in run][-1] + 1, gap) for gap, run in groupby(ranked, lambda item: item[1] - item[0])]


class Steering:
    """The groups of all addresses, with the slot of every member.

    listeners   `[slot][bind]` as `open_listeners` gives them: slots in the order of their listen(2)
    inherited   somebody else held these listeners before, and may have left a program on them

    `unavailable` is empty, or says why the kernel does not do it; for one line in the log.
    """

    def __init__(self, listeners: Sequence[Sequence[socket.socket]], *, inherited: bool = False) -> None:
        self._listeners = dict(enumerate(listeners))
        self._slots = list(self._listeners)  # the slot at each index, the same in every group
        self._receiving = None if inherited else frozenset(self._slots)  # what the kernel was told, as far as we know
        self.unavailable = _why_not(listeners)

    def steer(self, receiving: Iterable[int]) -> bool:
        """From now on only these slots get new connections; if they are none or all, the kernel spreads over all slots.

        Costs nothing when nothing has changed. Returns False, and does nothing, where it is not available.
        """
        wanted = frozenset(receiving) & self._listeners.keys() or frozenset(self._listeners)
        if not self.unavailable and wanted != self._receiving:
            self._install([index for index, slot in enumerate(self._slots) if slot in wanted])
            self._receiving = wanted
        return not self.unavailable

    def add(self, slot: int, listeners: Sequence[socket.socket]) -> None:
        """A slot has come: its listeners have joined the groups, in listen(2), a moment ago. Then `steer` again.

        Until then a program that is attached gives it nothing.
        """
        self._listeners[slot] = listeners
        self._slots.append(slot)
        self._receiving = None
        self.unavailable = self.unavailable or _why_not(list(self._listeners.values()))

    def remove(self, slot: int) -> None:
        """A slot has gone: its listeners have left the groups (see the facts) a moment ago. Then `steer` again.

        Before that, `steer` without it, and its queue is emptied: what waits in a listener that closes is reset.
        """
        del self._listeners[slot]
        last = self._slots.pop()
        if last != slot:
            self._slots[self._slots.index(slot)] = last
        self._receiving = None

    def forget(self) -> None:
        """Somebody else has steered these groups meanwhile. Then `steer` again."""
        self._receiving = None

    @property
    def order(self) -> list[int]:
        """The slots in the order in which the kernel counts their listeners."""
        return list(self._slots)

    def _install(self, indices: list[int]) -> None:
        """Tell every group, through whichever member; the kernel copies the program."""
        members = self._listeners[self._slots[0]]
        try:
            for listener in members:
                if len(indices) < len(self._slots):
                    _attach(listener, program(indices))
                else:
                    _spread(listener, indices)
        except OSError as error:
            self.unavailable = f"the kernel refuses it: {error.strerror}"
            # What it has taken before, here or from a predecessor, would go on with indices that are nobody's or another's.
            for listener in members:
                with contextlib.suppress(OSError):
                    _spread(listener, range(len(self._slots)))


def _why_not(listeners: Sequence[Sequence[socket.socket]]) -> str:
    """Why these listeners cannot be steered; empty if they can."""
    if sys.platform != "linux":
        return "only Linux can"
    binds = [listener for slot in listeners for listener in slot]
    if any(listener.family not in (socket.AF_INET, socket.AF_INET6) for listener in binds):
        return "a Unix socket has one queue for all workers"
    if len(set(binds)) < len(binds):
        return "an inherited socket has one queue for all workers"
    return ""


def _attach(listener: socket.socket, instructions: list[Instruction]) -> None:
    code = array("B", b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions))
    # struct sock_fprog (linux/filter.h): how many instructions, and where they are.
    sock_fprog = struct.pack("@HP", len(instructions), code.buffer_info()[0])
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, sock_fprog)


def _spread(listener: socket.socket, indices: Collection[int]) -> None:
    """Leave the choice to the kernel again. Linux before 5.3 cannot take a program away: one that leaves nobody out does."""
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
    except OSError as error:
        if error.errno != errno.ENOENT:  # there is none
            _attach(listener, program(indices))
