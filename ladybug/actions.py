"""Actions: what the supervisor wants done, in the order in which it returns them; the master does it.

Each Spawn is answered once, with `spawned` or `spawn_failed`: before any other event is told, or later, if what workers are
forked from is still loading (`LoadAnew`); when a stop has begun it is not done any more, and has failed. Each OpenSlot is
answered with `opened` or `open_failed`, before any other event. The others have no answer, or a later one.
"""

import signal
from typing import NamedTuple

# Levels of Log, as `logging` has them.
DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40


class Spawn(NamedTuple):
    """Fork a worker for `slot`, the `generation`th there, and answer with `spawned` or `spawn_failed`."""

    slot: int
    generation: int


class LoadAnew(NamedTuple):
    """Workers of a new edition are to come: if they are forked from what was loaded before, load that anew. `Reloaded` tells
    what has become of it."""


class Signal(NamedTuple):
    """Send `signal` to the worker `pid`."""

    pid: int
    signal: signal.Signals


class OpenSlot(NamedTuple):
    """Open listeners for a new slot, and answer with `opened` or `open_failed`."""

    slot: int


class CloseSlot(NamedTuple):
    """Nobody serves this slot any more, and nothing new gets there: when its queue is empty, close its listeners, and
    answer with `closed`."""

    slot: int


class Route(NamedTuple):
    """From now on these slots, if any, get all new connections, and those that wait in the queues of the others."""

    slots: frozenset[int]


class StartSuccessor(NamedTuple):
    """Start another master, and answer with `successor_failed` or `successor_ready`, now or later."""


class StopSuccessor(NamedTuple):
    """Have the other master stop: it is not wanted any more, or it takes too long."""


class HandOver(NamedTuple):
    """Let go of the listeners: they are the successor's."""


class ReopenLogs(NamedTuple):
    """Open the log files of this process anew."""


class Stopping(NamedTuple):
    """A stop has begun: say so to whoever started the server."""


class StopListening(NamedTuple):
    """Close the master's listeners: from now on the workers' are the last ones."""


class Announce(NamedTuple):
    """Every slot serves: say so."""


class Reloading(NamedTuple):
    """A reload has begun: say so to whoever started the server."""


class Reloaded(NamedTuple):
    """It is over, complete or abandoned."""

    is_complete: bool


class Log(NamedTuple):
    level: int
    text: str


class AskStacks(NamedTuple):
    """Have the worker `pid` write where its threads are."""

    pid: int


class DropStacks(NamedTuple):
    """What the worker `pid` has written since AskStacks is of no interest: it runs again."""

    pid: int


class LogStacks(NamedTuple):
    """Log the text, and with it what the worker `pid` has written since AskStacks."""

    pid: int
    level: int
    text: str


class Exit(NamedTuple):
    """Nobody is left: leave with this exit code."""

    code: int


Action = (
    Spawn
    | LoadAnew
    | Signal
    | OpenSlot
    | CloseSlot
    | Route
    | StartSuccessor
    | StopSuccessor
    | HandOver
    | ReopenLogs
    | Stopping
    | StopListening
    | Announce
    | Reloading
    | Reloaded
    | Log
    | AskStacks
    | DropStacks
    | LogStacks
    | Exit
)
