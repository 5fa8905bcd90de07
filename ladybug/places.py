"""Places: where the connections of each slot wait, and who gets them.

A place is what a slot keeps while its workers come and go: listeners, and the channel for rescued connections. `Places` holds
all of them, as the master does, and does what the supervisor's Route means:

    route(slots)        the kernel gives new connections to these; what waits elsewhere is theirs as well
    rescue(now)         move some of that; poll for `interests`, and call it again by `next_deadline`
    open, close_when_empty      slots come and go

Rule: a listener is closed when its queue is empty and nothing new gets there. Until then it is looked after.
"""

import contextlib
import logging
import select
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ladybug.listeners import close_listeners, is_shared, join_listeners, turn_away
from ladybug.rescue import MOST_PER_CALL, Channel, Rescuer
from ladybug.steering import Steering

if TYPE_CHECKING:
    from ladybug.config import Config

logger = logging.getLogger("ladybug.error")

# Seconds until connections are looked at again that nobody had room for.
NO_ROOM = 0.05


class Place:
    """What belongs to one slot; `own` are the listeners that it shares with no other slot."""

    def __init__(self, listeners: list[socket.socket], channel: Channel, *, shared: bool) -> None:
        self.listeners = listeners
        self.own = [] if shared else listeners
        self.channel = channel

    @property
    def fds(self) -> list[int]:
        """Readable while something waits here, and nowhere else."""
        return [self.channel.fd, *(listener.fileno() for listener in self.own)]

    @property
    def is_empty(self) -> bool:
        poll = select.poll()
        for fd in self.fds:
            poll.register(fd, select.POLLIN)
        return not poll.poll(0)

    def leave(self) -> None:
        """Out of the groups, at once: a child that was forked a moment ago may still have the listeners. Nothing waits here."""
        for listener in self.own:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self.channel.close()
        close_listeners([self.own])


class Places:
    """All of them.

    listeners   `[slot][bind]`, as `open_listeners` gives them
    inherited   from a predecessor, which has steered them as it liked
    """

    def __init__(self, config: "Config", listeners: list[list[socket.socket]], *, inherited: bool = False) -> None:
        self._config = config
        self._is_shared = is_shared(config)
        self._places = {
            slot: Place(of_slot, Channel(), shared=self._is_shared) for slot, of_slot in enumerate(listeners)
        }
        self._steering = Steering(listeners, inherited=inherited)
        self._rescuer = Rescuer()
        self.receiving = frozenset[int]()
        self._closing: set[int] = set()
        self._rescue_at = 0.0
        self._has_told = False  # that it cannot steer

    def get(self, slot: int) -> Place | None:
        return self._places.get(slot)

    def in_order(self) -> list[list[socket.socket]]:
        """The listeners, slots in the order in which the kernel counts them: for a successor."""
        return [self._places[slot].listeners for slot in self._steering.order if slot in self._places]

    # -- coming and going

    def open(self, slot: int) -> None:
        """A slot more, beside any other. Raises OSError."""
        beside = next(iter(self._places.values()))
        # The channel first: a listener that is closed again takes with it who has come to it meanwhile.
        channel = Channel()
        try:
            listeners = join_listeners(self._config, beside.listeners)
        except OSError:
            channel.close()
            raise
        self._places[slot] = Place(listeners, channel, shared=self._is_shared)
        self._steering.add(slot, listeners)
        self._steer()

    def close_when_empty(self, slot: int) -> None:
        """A slot less; `rescue` tells when that is done."""
        self._closing.add(slot)

    def turn_away(self) -> None:
        """Let no new connection in, anywhere, and rescue what is in now: soon those who receive are told to go."""
        turn_away(self._config, [place.listeners for place in self._places.values()])
        to = self._channels()
        for slot in self._left_alone():
            place = self._places[slot]
            # As long as there is room in the channels, which the kernel bounds.
            while self._rescuer.rescue(place.own, place.channel, to) == MOST_PER_CALL:
                pass
        self._rescuer.deliver(to)

    def close(self) -> None:
        """Close all of them in this process."""
        for place in self._places.values():
            place.close()
            close_listeners([place.listeners])
        self._places.clear()
        self.receiving = frozenset()
        self._rescuer.close()

    def keep_only(self, slot: int) -> Place:
        """In a worker: this one is its own, the others are its master's."""
        mine = self._places.pop(slot)
        for place in self._places.values():
            place.close()
        self._rescuer.close()
        return mine

    # -- who gets what

    def route(self, slots: frozenset[int]) -> None:
        """From now on these get everything, if there are any."""
        self.receiving = slots
        self._rescue_at = 0.0
        self._steer()

    def route_again(self) -> None:
        """Somebody else has steered meanwhile."""
        self._steering.forget()
        self._steer()

    def interests(self, now: float) -> Iterator[int]:
        """Descriptors that are readable when there is something to rescue."""
        if now >= self._rescue_at:
            for slot in self._left_alone():
                yield from self._places[slot].fds

    def next_deadline(self, now: float) -> float | None:
        return self._rescue_at if self._rescue_at > now else None

    def rescue(self, now: float) -> list[int]:
        """Give some of what waits where nobody takes it to those who do. Returns the slots that are closed by now."""
        if now < self._rescue_at:
            return []
        closed = []
        to = self._channels()
        for slot in self._left_alone():
            place = self._places[slot]
            moved = self._rescuer.rescue(place.own, place.channel, to)
            if not place.is_empty:
                if moved < MOST_PER_CALL:
                    self._rescue_at = now + NO_ROOM
            elif slot in self._closing:
                self._close(slot)
                closed.append(slot)
        # Also when its slot is well again, and nobody is left alone.
        if to and not self._rescuer.deliver(to):
            self._rescue_at = now + NO_ROOM
        return closed

    def _channels(self) -> list[Channel]:
        """Where what is rescued goes."""
        return [self._places[slot].channel for slot in sorted(self.receiving)]

    def _left_alone(self) -> list[int]:
        """Slots whose queues nobody empties, while somebody else could."""
        return [slot for slot in self._places if slot not in self.receiving] if self.receiving else []

    def _close(self, slot: int) -> None:
        self._closing.discard(slot)
        place = self._places.pop(slot)
        place.leave()
        place.close()
        self._steering.remove(slot)
        self._steer()

    def _steer(self) -> None:
        if not self._steering.steer(self.receiving) and not self._has_told and len(self._places) > 1:
            self._has_told = True
            # Of one queue for all whoever is free takes, and nobody misses anything. Of several, clients wait for a rescue.
            level = logging.INFO if self._is_shared else logging.WARNING
            logger.log(
                level,
                "New connections are not steered around workers that are busy or gone: %s",
                self._steering.unavailable,
            )
