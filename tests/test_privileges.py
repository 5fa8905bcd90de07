"""As whom to run, and which files go along. Changing that needs root; without it only refusals can be tested."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ladybug.config import Config
from ladybug.exceptions import StartupError
from ladybug.privileges import Identity, drop_privileges, give_log_files, identity_of, unreadable

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
NOBODY = pwd.getpwnam("nobody")


def identity(**settings: Any) -> Identity | None:
    return identity_of(Config("app:app", **settings))


def test_nothing_is_wanted_and_nothing_changes() -> None:
    assert identity() is None
    drop_privileges(Config("app:app"))
    assert os.geteuid() == os.getuid()


@needs_root
@pytest.mark.parametrize("user", ["nobody", str(NOBODY.pw_uid)])
def test_a_user_comes_with_all_of_its_groups(user: str) -> None:
    found = identity(user=user)
    assert found is not None
    assert (found.uid, found.gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
    assert set(found.groups) == set(os.getgrouplist("nobody", NOBODY.pw_gid))


@needs_root
def test_a_group_replaces_that_of_the_user() -> None:
    daemon = grp.getgrnam("daemon").gr_gid
    for group in ("daemon", daemon):
        found = identity(user="nobody", group=group)
        assert found is not None
        assert (found.uid, found.gid) == (NOBODY.pw_uid, daemon)
        assert daemon in found.groups and 0 not in found.groups


@needs_root
def test_a_group_alone_does_not_keep_those_of_root() -> None:
    assert identity(group="daemon") == Identity(0, grp.getgrnam("daemon").gr_gid, (grp.getgrnam("daemon").gr_gid,))


@needs_root
def test_a_number_that_nobody_has_needs_a_group() -> None:
    assert identity(user=54321, group=54322) == Identity(54321, 54322, (54322,))
    with pytest.raises(StartupError, match=r"^There is no user 54321 .*a number that the system does not know needs a"):
        identity(user=54321)


def test_names_that_are_not_there_are_named() -> None:
    with pytest.raises(StartupError, match=r"^There is no user no-such-user on this system \(--user\)\.$"):
        identity(user="no-such-user")
    with pytest.raises(StartupError, match=r"^There is no group no-such-group on this system \(--group\)\.$"):
        identity(group="no-such-group")


@needs_root
def test_the_systems_tables_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be a directory server's; that one may be away when log files are opened anew, or a worker is replaced."""
    first = identity(user="nobody", group="daemon")

    def away(*_: object) -> object:
        raise KeyError("not found")

    for module, name in ((pwd, "getpwnam"), (pwd, "getpwuid"), (grp, "getgrnam"), (os, "getgrouplist")):
        monkeypatch.setattr(module, name, away)
    assert identity(user="nobody", group="daemon") == first


def in_child(act: Callable[[], object]) -> str:
    """What `act` returns in a forked process, in words; whatever it changes is gone with it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, repr(act()).encode())
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    return text


@needs_root
def test_what_a_user_cannot_read_may_be_python() -> None:
    error = ModuleNotFoundError("No module named 'asyncio'", name="asyncio")
    told = unreadable(Config("m:a", user="nobody"), error)
    assert told == f". Can the user nobody read {sys.prefix} and {sys.base_prefix}?"
    assert unreadable(Config("m:a", group="0"), error).startswith(". Can the group 0 read ")
    assert unreadable(Config("m:a"), error) == "", "whoever has not become somebody else can read what it could"
    assert unreadable(Config("m:a", user="nobody"), ValueError()) == ""


def test_what_is_dropped_is_dropped_for_good() -> None:
    def drop() -> object:
        drop_privileges(Config("app:app", user="nobody"))
        regained = []
        attempts: dict[str, Callable[[], None]] = {
            "setuid": lambda: os.setuid(0),
            "seteuid": lambda: os.seteuid(0),
            "setgid": lambda: os.setgid(0),
            "setgroups": lambda: os.setgroups([0]),
        }
        for name, attempt in attempts.items():
            try:
                attempt()
            except PermissionError:
                continue
            regained.append(name)
        return os.getresuid(), os.getresgid(), sorted(os.getgroups()), regained

    groups = sorted(set(os.getgrouplist("nobody", NOBODY.pw_gid)))
    assert in_child(drop) == repr(((NOBODY.pw_uid,) * 3, (NOBODY.pw_gid,) * 3, groups, []))


@needs_root
def test_who_is_not_root_may_only_ask_for_what_it_is() -> None:
    def ask(**settings: Any) -> object:
        os.setgroups([])
        os.setgid(NOBODY.pw_gid)
        os.setuid(NOBODY.pw_uid)
        return identity(**settings)

    assert in_child(lambda: ask(user="nobody")) == "None"
    assert in_child(lambda: ask(user="root")).startswith("StartupError: --user and --group need root: start the server")


# -- log files


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.getLogger("tests.privileges")
    yield made
    for handler in made.handlers[:]:
        made.removeHandler(handler)
        handler.close()


@needs_root
def test_log_files_go_to_the_user(tmp_path: Path, logger: logging.Logger) -> None:
    path = tmp_path / "server.log"
    logger.addHandler(logging.FileHandler(path))
    logger.addHandler(logging.StreamHandler())
    give_log_files(Identity(NOBODY.pw_uid, 54322, ()))
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY.pw_uid, 54322)


@needs_root
@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "device"])
def test_what_somebody_has_put_in_the_place_of_a_log_file_does_not(
    tmp_path: Path, logger: logging.Logger, kind: str
) -> None:
    """In a directory of the user's, the user could make root give it any file."""
    precious = tmp_path / "precious"
    precious.write_text("root's")
    path = tmp_path / "server.log"
    if kind == "symbolic link":
        path.symlink_to(precious)
    elif kind == "hard link":
        path.hardlink_to(precious)
    else:
        path.symlink_to("/dev/null")
        precious = Path("/dev/null")
    logger.addHandler(logging.FileHandler(path))
    give_log_files(Identity(NOBODY.pw_uid, NOBODY.pw_gid, ()))
    assert precious.stat().st_uid == 0
