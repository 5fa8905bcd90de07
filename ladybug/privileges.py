"""Users and groups: as whom the application runs, and what has to belong to it.

Who drops what, and when:

    master      nothing. It keeps root, because it goes on opening listeners (a port below 1024; and Linux only lets
                sockets of one user join in SO_REUSEPORT), removes its pid file and socket, and starts successors of itself.
                It runs no code of the application and reads nothing from the network.
    worker      everything, for good, right after the fork: before the application, and what serves, is imported
    fork server     the same (--preload), and its workers are born without
    alone       the same, after the listeners are open

Before that, the files that workers go on writing to are given to them: log files, so that they can be opened again after
rotation, and the path of a unix socket.

The master imports this room.
"""

import contextlib
import functools
import logging
import os
import stat
import sys
from typing import TYPE_CHECKING, NamedTuple

from ladybug.exceptions import StartupError

if TYPE_CHECKING:
    from ladybug.config import Config


class Identity(NamedTuple):
    """As whom to run."""

    uid: int
    gid: int
    groups: tuple[int, ...]  # all of them, from the system's table


def identity_of(config: "Config") -> Identity | None:
    """As whom --user and --group want the application to run; None if that is who we are.

    The group of a user, when none is given, is the one in the system's table. Raises StartupError for names that are
    not there, and when this process may not become what is wanted.
    """
    if config.user is None and config.group is None:
        return None
    wanted = _look_up(config.user, config.group)
    if os.geteuid() == 0:
        return wanted
    if (wanted.uid, wanted.gid) == (os.getuid(), os.getgid()):
        return None
    raise StartupError("--user and --group need root: start the server as root, or as that user without them.")


@functools.cache
def _look_up(user: str | None, group: str | None) -> Identity:
    """In the system's tables, once, at the start: they can be a directory server's, which may not answer later on.

    So a process that serves neither waits for it nor fails with it, and all workers are the same user.
    """
    uid, gid, name = os.getuid(), os.getgid(), ""
    if user is not None:
        uid, gid, name = _user(user, has_group=group is not None)
    if group is not None:
        gid = _group(group)
    # Never those that root has: with --group alone, they would undo it.
    return Identity(uid, gid, tuple(os.getgrouplist(name, gid)) if name else (gid,))


def drop_privileges(config: "Config") -> None:
    """Become who --user and --group want, for good; nothing if they say nothing. Raises StartupError and OSError."""
    identity = identity_of(config)
    if identity is None:
        return
    # In this order: who is no longer root may change neither groups nor group. Of root, each changes all there is:
    # the real id, the effective and the saved one (setuid(2)).
    os.setgroups(identity.groups)
    os.setgid(identity.gid)
    os.setuid(identity.uid)


def give_log_files(identity: Identity) -> None:
    """Let the files that `logging` has open by now belong to `identity`."""
    names = [name for name, logger in logging.Logger.manager.loggerDict.items() if isinstance(logger, logging.Logger)]
    for logger in (logging.getLogger(), *map(logging.getLogger, names)):
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler) and handler.stream is not None:
                _give_file(handler.stream.fileno(), handler.baseFilename, identity)


def _give_file(fd: int, path: str, identity: Identity) -> None:
    """Change the owner of an open file, if it is the plain file that `path` names and has no other name.

    A directory that the user may write in is under the user's control: a link there, to a file of root's, would otherwise
    make that file the user's.
    """
    with contextlib.suppress(OSError):
        there, opened = os.lstat(path), os.fstat(fd)
        if stat.S_ISREG(there.st_mode) and os.path.samestat(there, opened) and opened.st_nlink == 1:
            os.fchown(fd, identity.uid, identity.gid)


def _user(name: str, *, has_group: bool) -> tuple[int, int, str]:
    """User id, group id, and name ("" for a number that has none)."""
    import pwd

    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        if name.isdecimal() and has_group:
            return int(name), os.getgid(), ""
        also = ": a number that the system does not know needs a --group" if name.isdecimal() else ""
        raise StartupError(f"There is no user {name} on this system (--user){also}.") from None
    return entry.pw_uid, entry.pw_gid, entry.pw_name


def _group(name: str) -> int:
    import grp

    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartupError(f"There is no group {name} on this system (--group).") from None


def unreadable(config: "Config", error: BaseException) -> str:
    """What to add to an error that came after `drop_privileges`; empty if it was not about that."""
    if not isinstance(error, ImportError) or (config.user is None and config.group is None):
        return ""
    whom = f"the user {config.user}" if config.user is not None else f"the group {config.group}"
    return f". Can {whom} read {sys.prefix} and {sys.base_prefix}?"
