"""The access log: one line for each response, cheap enough to leave on.

As long as the logger "ladybug.access" is set up as it was by default, its lines are formatted here by hand and written in
one go per turn of the loop; what a reader sees is the same. Once anybody has given it a handler, a filter or a format,
every record takes the way through `logging`, with the five arguments that uvicorn.access has.
"""

import logging
import select
from typing import Any, Final, final

from mypy_extensions import i64, mypyc_attr

from ladybug.asgi.exchange import quoted, shown
from ladybug.asgi.service import AccessRecorder

LOGGER: Final = logging.getLogger("ladybug.access")
VERSIONS: Final = ("1.0", "1.1")
PIPE_BUF: Final[i64] = select.PIPE_BUF


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

    def record(self, client: Any, method: str, target: bytes, http11: bool, status: int) -> None:
        version = VERSIONS[1] if http11 else VERSIONS[0]
        self.lines.append(
            f'{self.prefix} {shown(client)} - "{method} {quoted(target)} HTTP/{version}" {self.statuses[status]}\n'
        )

    def flush(self) -> None:
        lines = self.lines
        if lines:
            self.lines = []
            # A pipe that several workers share takes up to PIPE_BUF bytes as one; more could be torn apart.
            batch: list[str] = []
            size: i64 = 0
            for line in lines:
                size += len(line)
                if size > PIPE_BUF and batch:
                    self.write("".join(batch))
                    batch = []
                    size = len(line)
                batch.append(line)
            self.write("".join(batch))

    def write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            pass  # closed, full or broken: responses must go out all the same


@mypyc_attr(native_class=True)
@final
class LoggingAccessLog(AccessRecorder):
    """Hands each response to the logger."""

    def record(self, client: Any, method: str, target: bytes, http11: bool, status: int) -> None:
        version = VERSIONS[1] if http11 else VERSIONS[0]
        LOGGER.info('%s - "%s %s HTTP/%s" %d', shown(client), method, quoted(target), version, status)

    def flush(self) -> None:
        pass
