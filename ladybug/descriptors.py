"""Descriptors: open files on their way from one process to another (SCM_RIGHTS, unix(7)).

`socket.send_fds` sends them. What it lacks is the other half: `socket.recv_fds` does not hand its flags on, so what it
receives would be inherited by programs that the application starts.

No asyncio: the master imports this room.
"""

import os
import socket
from array import array

# recvmsg(2). Where there is no such flag the descriptors are told afterwards.
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def receive_descriptors(source: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """One message of `size` bytes at most, and the descriptors that came with it, `most` at most; they are the caller's.

    There may be fewer than were sent: those for which this process has no place are closed by the kernel. Raises OSError,
    BlockingIOError among them.
    """
    message, ancillary, _, _ = source.recvmsg(size, socket.CMSG_LEN(most * array("i").itemsize), _CLOSE_ON_EXEC)
    received = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    if not _CLOSE_ON_EXEC:
        for fd in received:
            os.set_inheritable(fd, False)
    return message, list(received)
