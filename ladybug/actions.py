"""Actions: what the supervisor wants done, in the order in which it returns them; the master does it.

Each Spawn is answered, with `spawned` or `spawn_failed`, before any other event is told, and each OpenSlot with `opened` or
`open_failed`. The others have no answer, or a later one.
"""

import signal
from typing import NamedTuple

# Levels of Log, as `logging` has them.
DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40


class Spawn(NamedTuple):
    """Fork a worker for `slot`, the `generation`th there, and answer with `spawned` or `spawn_failed`."""

    slot: int
    generation: int


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


class Log(NamedTuple):
    level: int
    text: str


class AskStacks(NamedTuple):
    """Have the worker `pid` write where its threads are."""

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
    | LogStacks
    | Exit
)
