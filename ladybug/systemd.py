"""What systemd and a service say to each other: sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3), without libsystemd.

`Notifier` is the service's side of the conversation, `take_listen_fds` the sockets that came with it:

    notifier = Notifier.from_environment()      before anything is started that would inherit the variables
    notifier.starting(now) ... ready(text) ... reloading(now) ... ready(text) ... stopping(seconds)
    notifier.tick(now, is_healthy)              at next_deadline(), or more often
    notifier.status(now, figures)               whenever awake

Without $NOTIFY_SOCKET all of that does nothing, so nobody has to ask whether there is a systemd.

Facts that shape the code:
- systemd knows the sender by its process id, and by default (NotifyAccess=main) hears only the main process: the master.
- While a service starts, reloads or stops a deadline of systemd's runs, and EXTEND_TIMEOUT_USEC moves it. We move it as
  long as the master lives and is at it: what may take how long is the master's business, and it is said there.
- The watchdog is about those who serve, not about the master alone: it is fed only while the fleet is healthy.

Rules: a message never blocks and never raises; one that finds the queue full is sent again by `tick`. The socket is open
for one message only, so no child inherits it. `now` is time.monotonic(), which is CLOCK_MONOTONIC as systemd wants it.

The master imports this room: no asyncio, nothing heavy.
"""

import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from math import inf

from ladybug.exceptions import StartupError

logger = logging.getLogger("ladybug.error")

# sd_listen_fds(3): the first inherited socket.
SD_LISTEN_FDS_START = 3
# Seconds that systemd is asked to wait for a next word while we start or reload, and how often it gets one.
EXTENSION = 30.0
EXTEND_EVERY = 10.0
# Seconds between two lines about what goes on, at least.
STATUS_EVERY = 10.0
# Seconds until a message is tried again that found the queue full, and how many such messages are kept.
RETRY = 0.1
MOST_UNSENT = 16
# One datagram; a status is a line for people.
MAX_STATUS = 1024


class Notifier:
    """Tells systemd what the service is doing.

    address     $NOTIFY_SOCKET: the path of a unix socket, or an abstract one that is written with "@"; "" is nobody
    watchdog    seconds after which systemd gives a silent service up ($WATCHDOG_USEC); 0 without a watchdog
    """

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self.address = address
        self.watchdog = watchdog if address else 0.0
        self._extend_at: float | None = None
        # The watchdog's clock begins with READY.
        self._feed_at: float | None = None
        self._status_at = inf  # finite from the start to the last word
        self._status = ""  # as last said
        self._is_ready = False
        self._is_stopping = False
        self._is_starving = False
        self._unsent: deque[str] = deque(maxlen=MOST_UNSENT)
        self._retry_at = 0.0

    @classmethod
    def from_environment(cls) -> "Notifier":
        """The notifier that the environment asks for. Takes the variables away: they are meant for this process only."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        microseconds = os.environ.pop("WATCHDOG_USEC", "")
        # sd_watchdog_enabled(3): without WATCHDOG_PID it is for whoever reads it.
        is_ours = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if address and address[0] not in "/@":
            logger.warning(
                "NOTIFY_SOCKET is neither a path nor an abstract socket, and nobody is notified: %s", address
            )
            address = ""
        watchdog = int(microseconds) / 1e6 if is_ours and microseconds.isdecimal() else 0.0
        return cls(address, watchdog)

    def environment(self) -> dict[str, str]:
        """The variables for a program that takes this one's place, to be put into its environment by whoever starts it."""
        if not self.address:
            return {}
        variables = {"NOTIFY_SOCKET": self.address}
        if self.watchdog:
            variables["WATCHDOG_USEC"] = str(round(self.watchdog * 1e6))
        return variables

    # -- what the service says

    def starting(self, now: float) -> None:
        """The start has begun; until `ready`, systemd is asked for patience."""
        self._extend_at = now + EXTEND_EVERY
        self._status_at = now + STATUS_EVERY

    def ready(self, status: str = "") -> None:
        """The start, or the reload, is complete."""
        self._extend_at = None
        if not self._is_ready:
            self._is_ready = True
            self._feed_at = 0.0 if self.watchdog else None
        self._status = _status(status)
        self._say("READY=1", self._status)

    def reloading(self, now: float) -> None:
        """A reload begins; `ready` ends it, also when it has failed and the old workers go on."""
        self._extend_at = now + EXTEND_EVERY
        # Type=notify-reload wants to know that this answers its signal, and not an earlier one: by its time.
        self._say("RELOADING=1", f"MONOTONIC_USEC={int(now * 1e6)}")

    def stopping(self, seconds: float) -> None:
        """The stop has begun, and takes `seconds` at most."""
        self._extend_at = None
        self._status_at = inf
        self._is_stopping = True
        self._say("STOPPING=1", _extension(seconds))

    def status(self, now: float, figures: Callable[[], str]) -> None:
        """What goes on, in one line for people: `systemctl status` shows it.

        Said between READY and the stop, every STATUS_EVERY seconds at most, if it is news. That is no deadline: nobody
        has to wake up for it.
        """
        if not (self.address and self._is_ready) or now < self._status_at:
            return
        self._status_at = now + STATUS_EVERY
        before, self._status = self._status, _status(figures())
        if self._status != before:
            self._say(self._status)

    def main_pid(self, pid: int) -> None:
        """From now on the main process is `pid`: the last word of a master that has a successor."""
        self._status_at = inf
        self._say(f"MAINPID={pid}")

    # -- what time asks for

    def next_deadline(self) -> float | None:
        """When `tick` has something to do; None: never."""
        if not self.address:
            return None
        deadlines = [at for at in (self._extend_at, self._feed_at) if at is not None]
        if self._unsent:
            deadlines.append(self._retry_at)
        return min(deadlines, default=None)

    def tick(self, now: float, is_healthy: Callable[[], bool]) -> None:
        """Say what is due: patience, the watchdog's food if `is_healthy()`, and what could not be said before.

        During a stop the watchdog is fed without asking: the stop has its own deadline.
        """
        if self._extend_at is not None and now >= self._extend_at:
            self._extend_at = now + EXTEND_EVERY
            self._say(_extension(EXTENSION))
        if self._feed_at is not None and now >= self._feed_at:
            # sd_watchdog_enabled(3): every half of the time.
            self._feed_at = now + self.watchdog / 2
            self._feed(self._is_stopping or is_healthy())
        self._flush()
        self._retry_at = now + RETRY

    def _feed(self, is_healthy: bool) -> None:
        if is_healthy:
            self._say("WATCHDOG=1")
        elif not self._is_starving:
            logger.error("No worker is well: systemd's watchdog is not told that we are (WatchdogSec)")
        self._is_starving = not is_healthy

    # -- sending

    def _say(self, *assignments: str) -> None:
        if self.address:
            self._unsent.append("\n".join(assignment for assignment in assignments if assignment))
            self._retry_at = 0.0
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            try:
                _send(self.address, self._unsent[0])
            except BlockingIOError:
                return
            except OSError as error:
                logger.debug("systemd could not be told %r: %s", self._unsent[0], error)
            self._unsent.popleft()


def _extension(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


def _status(text: str) -> str:
    """One assignment, whatever is in the text: a line break would begin another one."""
    return f"STATUS={' '.join(text.split())[:MAX_STATUS]}" if text else ""


def _send(address: str, message: str) -> None:
    """One datagram. Raises OSError, BlockingIOError when it would have to wait."""
    # unix(7): the name of an abstract socket begins with a zero byte.
    name = b"\0" + os.fsencode(address[1:]) if address[0] == "@" else os.fsencode(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(message.encode("utf-8", "replace"), name)


# -- socket activation


def take_listen_fds() -> list[int]:
    """The file descriptors of the sockets that systemd has opened for this process; none without socket activation.

    Takes LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES out of the environment, logs by which names systemd knows the sockets
    (FileDescriptorName=, by default the unit's), and keeps them from programs that are started later. Raises StartupError if
    the variables make no sense.
    """
    count = os.environ.pop("LISTEN_FDS", "")
    pid = os.environ.pop("LISTEN_PID", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if not count or not pid:
        return []
    if not (count.isdecimal() and pid.isdecimal()):
        raise StartupError(
            f"LISTEN_FDS={count} and LISTEN_PID={pid} are not the numbers that sd_listen_fds(3) promises."
        )
    if int(pid) != os.getpid():
        # A shell between systemd and us: the user wonders why the socket is not served.
        logger.warning("LISTEN_FDS is for process %s and not for this one (%d): ignored", pid, os.getpid())
        return []
    fds = list(range(SD_LISTEN_FDS_START, SD_LISTEN_FDS_START + int(count)))
    for fd in fds:
        with contextlib.suppress(OSError):  # not open: whoever adopts it says so
            os.set_inheritable(fd, False)
    if len(names) == len(fds):
        told = ", ".join(f"{name} (file descriptor {fd})" for name, fd in zip(names, fds, strict=True))
        logger.info("Listening where systemd does: %s", told)
    return fds
