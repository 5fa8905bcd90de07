"""The access log: one line for each response, cheap enough to leave on.

As long as the logger "ladybug.access" is set up as it was by default, its lines are formatted here by hand and written in
one go per turn of the loop; what a reader sees is the same. Once anybody has given it a handler, a filter or a format,
every record takes the way through `logging`, with the five arguments that uvicorn.access has.
"""

import logging
from typing import Any, Final, final

from mypy_extensions import mypyc_attr

from ladybug.asgi.service import AccessRecorder

LOGGER: Final = logging.getLogger("ladybug.access")
VERSIONS: Final = ("1.0", "1.1")


@mypyc_attr(native_class=True)
@final
class PlainAccessLog(AccessRecorder):
    """Writes the lines itself.

    Args:
        stream: a text stream; a line it refuses is lost, as with logging's handlers.
        prefix: what each line begins with.
        statuses: the text of each status, by number, from 0 to 999.
    """

    def __init__(self, stream: Any, prefix: str, statuses: list[str]) -> None:
        self.stream: Final = stream
        self.prefix: Final = prefix
        self.statuses: Final = statuses
        self.lines: list[str] = []

    def record(self, peer: str, method: str, target: bytes, http11: bool, status: int) -> None:
        version = VERSIONS[1] if http11 else VERSIONS[0]
        path = target.decode("latin-1")
        self.lines.append(f'{self.prefix} {peer} - "{method} {path} HTTP/{version}" {self.statuses[status]}\n')

    def flush(self) -> None:
        lines = self.lines
        if lines:
            self.lines = []
            try:
                self.stream.write("".join(lines))
                self.stream.flush()
            except (OSError, ValueError):
                pass  # closed, full or broken: responses must go out all the same


@mypyc_attr(native_class=True)
@final
class LoggingAccessLog(AccessRecorder):
    """Hands each response to the logger."""

    def record(self, peer: str, method: str, target: bytes, http11: bool, status: int) -> None:
        version = VERSIONS[1] if http11 else VERSIONS[0]
        path = target.decode("latin-1")
        LOGGER.info('%s - "%s %s HTTP/%s" %d', peer, method, path, version, status)

    def flush(self) -> None:
        pass
