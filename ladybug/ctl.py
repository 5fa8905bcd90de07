"""The command `ladybug ctl`: asks the master of a running server, over its control socket, and prints what it answers.

Exit codes: 0 done; 1 the server refuses, or has failed; 2 wrong command line, or it does not say which of several servers is
meant; 3 no server was reached; 4 not done in the time given.

Rule: whatever goes wrong ends with a sentence that says what to do.
"""

import json
import unicodedata
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import click

from ladybug.config import Config
from ladybug.control import Refused, SlotStatus, Status, WorkerStatus, ask, directories, running
from ladybug.outcome import Failed, Judge, TooLate, await_outcome, of_reload, of_scale, of_stop, of_upgrade
from ladybug.setting import Whole

MINUTE, HOUR, DAY = 60, 3600, 86400

COLUMNS = (
    *("SLOT", "PID", "GENERATION", "STATE", "AGE", "HEARD", "CONNECTIONS", "RUNNING", "REQUESTS", "MEMORY", "WAITING"),
    "RESTARTS",
)


class RefusedByServer(click.ClickException):
    exit_code = 1


class SeveralServers(click.ClickException):
    exit_code = 2


class NotReached(click.ClickException):
    exit_code = 3


class NotInTime(click.ClickException):
    exit_code = 4


def which(**more: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option that says which server is meant: before the command or after it, which wins."""
    return click.option(
        "--control-socket",
        "path",
        metavar="PATH",
        help="The control socket of the server, as it was given to the server.",
        **more,
    )


# As for the server: what its environment says, this command in the same environment heeds.
@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@which(envvar=Config.control_socket.env)
@click.pass_context
def ctl(context: click.Context, path: str | None) -> None:
    """Ask a running server, or tell it what to do.

    The server is found by itself if you run one; otherwise say which with --control-socket.
    """
    context.obj = path


@ctl.command()
@which()
@click.option("--json", "as_json", is_flag=True, help="Print what the server answers, for programs.")
def status(path: str | None, as_json: bool) -> None:
    """Print what the workers are doing."""
    answer = tell(found(path), "status")
    click.echo(json.dumps(answer, indent=2) if as_json else printable(table(answer)))


@ctl.command()
@which()
def ready(path: str | None) -> None:
    """Exit with 0 if the server is to be sent requests, else with 1: it boots, or has been told to stop.

    For probes: a server that stops says so from the signal on, and so before --shutdown-delay is over.
    """
    answer = tell(found(path), "status")
    if answer["state"] not in ("running", "reloading", "upgrading"):
        raise RefusedByServer(f"It is {answer['state']}.")
    if not any(slot["receiving"] for slot in answer["slots"]):
        raise RefusedByServer("None of its workers can take a request.")
    click.echo("Ready.")


def _only_with_wait(context: click.Context, _: click.Parameter, timeout: float | None) -> float | None:
    if timeout is not None and not context.params.get("wait"):
        raise click.BadParameter("it is for --wait.")
    return timeout


def waits(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that can wait for what comes of it."""
    timeout = click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(0),
        callback=_only_with_wait,
        help="With --wait: give up after this long, with exit code 4. By default the server's own deadlines are enough.",
    )
    wait = click.option(
        "--wait", is_flag=True, is_eager=True, help="Return when it is done; if it fails, say why, with exit code 1."
    )
    return wait(timeout(command))


@ctl.command()
@which()
@waits
def reload(path: str | None, wait: bool, timeout: float | None) -> None:
    """Replace all workers with new ones, which import the application anew; nobody is turned away meanwhile."""
    path = found(path)
    begin(tell(path, "reload"))
    if wait:
        finish(path, of_reload, timeout)


@ctl.command()
@which()
@waits
def stop(path: str | None, wait: bool, timeout: float | None) -> None:
    """Stop the server gracefully; a second time cuts short what still runs."""
    path = found(path)
    before: Any = tell(path, "status") if wait else None
    begin(tell(path, "stop"))
    if wait:
        finish(path, of_stop(before), timeout)


class Scale(click.Command):
    """Takes -1 for what it is meant to be: click takes it for an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(args))
        except click.NoSuchOption as error:
            if not error.option_name[1:].isdigit():
                raise
            raise _signed(next(arg for arg in args if arg.startswith(error.option_name)), ctx) from None


def _number(context: click.Context, _: click.Parameter, given: str) -> int:
    if given.startswith("+"):
        raise _signed(given, context)
    try:
        return Whole(1)(given)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


def _signed(given: str, context: click.Context) -> click.UsageError:
    return click.UsageError(
        f"{given}: scale takes the number of workers that is wanted, not how many more or fewer.", context
    )


@ctl.command(cls=Scale)
@which()
@waits
@click.argument("workers", callback=_number)
def scale(path: str | None, workers: int, wait: bool, timeout: float | None) -> None:
    """Have WORKERS worker processes from now on."""
    path = found(path)
    begin(tell(path, "scale", workers=workers))
    if wait:
        finish(path, of_scale(workers), timeout)


@ctl.command()
@which()
@waits
def upgrade(path: str | None, wait: bool, timeout: float | None) -> None:
    """Start the server that is installed now, and have it take over."""
    path = found(path)
    before: Any = tell(path, "status") if wait else None
    begin(tell(path, "upgrade"))
    if wait:
        finish(path, of_upgrade(before), timeout)


def begin(answer: Any) -> None:
    """Say what the server has begun to do."""
    click.echo(printable(answer["text"]))


def finish(path: str, judge: Judge, timeout: float | None) -> None:
    """Wait for the end of it, and say that too. Raises what ends this command."""
    try:
        text = await_outcome(path, judge, inf if timeout is None else timeout)
    except Failed as error:
        raise RefusedByServer(printable(str(error))) from None
    except TooLate:
        raise NotInTime(f"Not done within {timeout:g} s; the server goes on with it.") from None
    except OSError as error:
        raise NotReached(why_not(path, error)) from None
    click.echo(printable(text))


def found(path: str | None) -> str:
    """The control socket of the server that is meant. Raises what ends this command."""
    if path is None:
        path = click.get_current_context().obj
    if path is None or path in ("", "auto"):
        path = the_only_server()
        # Who was found may be somebody else's whom one had forgotten.
        click.echo(printable(describe(path)), err=True)
        return path
    if path == "off":
        raise NotReached("Its control socket is off: start it with another --control-socket.")
    return path


def tell(path: str, command: str, **arguments: Any) -> Any:
    """The answer of the server at `path`. Raises what ends this command."""
    try:
        return ask(path, command, **arguments)
    except Refused as error:
        raise RefusedByServer(str(error)) from None
    except OSError as error:
        raise NotReached(why_not(path, error)) from None


def why_not(path: str, error: OSError) -> str:
    """Why the server at `path` could not be asked, and what to do."""
    if isinstance(error, FileNotFoundError):
        return f"{path} is not there: the server has stopped, or its --control-socket is another."
    if isinstance(error, ConnectionRefusedError) and not Path(path).is_socket():
        return f"{path} is not a socket."
    if isinstance(error, ConnectionRefusedError):
        return f"{path} is left over from a server that is gone: start it again."
    if isinstance(error, PermissionError):
        return f"{path} belongs to another user: run this command as that user."
    if isinstance(error, TimeoutError):
        return f"{path} does not answer: the server is stopped (SIGSTOP), or the machine overloaded."
    return f"{path} cannot be asked: {error.strerror or error}."


def the_only_server() -> str:
    """The control socket of this user's server. Raises SeveralServers, or NotReached if there is none."""
    paths = running()
    if len(paths) == 1:
        return paths[0]
    if paths:
        listed = "\n".join(f"  --control-socket {path}    {describe(path)}" for path in paths)
        raise SeveralServers(f"There are several servers; say which one:\n{printable(listed)}")
    raise NotReached(
        f"No server of this user was found (looked in {', '.join(directories())}). Run this command as the server's user, or"
        " give its --control-socket. A server with --workers 0 has none."
    )


def describe(path: str) -> str:
    try:
        answer = ask(path, "status", timeout=1.0)
        return f"{answer['app']} on {', '.join(answer['addresses'])} (pid {answer['pid']})"
    except (OSError, Refused, KeyError, TypeError) as error:
        return f"does not say what it is: {error}"


# -- words


def table(status: Status) -> str:
    """The whole status for people: a headline, a line for each worker, and what was remarkable."""
    lines = [
        f"Ladybug {status['version']} (pid {status['pid']}) serving {status['app']} on {', '.join(status['addresses'])}",
        f"{status['state']} for {duration(status['age'])}, {count(status['workers'], 'worker')}",
        "",
    ]
    rows = [COLUMNS, *(row for slot in status["slots"] for row in slot_rows(slot))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    remarks = [remark for slot in status["slots"] for remark in slot_remarks(slot)]
    if status["message"]:
        remarks.append(status["message"])
    return "\n".join([*lines, *([""] if remarks else []), *remarks])


def slot_rows(slot: SlotStatus) -> list[tuple[str, ...]]:
    """A line for each worker of a slot. What concerns the slot stands on the first; without a worker there is one too."""
    waiting = "" if slot["waiting"] is None else str(slot["waiting"])
    own = [(waiting, str(sum(slot["restarts"].values())))] + [("", "")] * len(slot["workers"])
    workers = [worker_cells(worker) for worker in slot["workers"]] or [("", "", "empty") + ("",) * 6]
    return [(str(slot["slot"]), *cells, *rest) for cells, rest in zip(workers, own, strict=False)]


def worker_cells(worker: WorkerStatus) -> tuple[str, ...]:
    return (
        str(worker["pid"]),
        str(worker["generation"]),
        worker["state"],
        duration(worker["age"]),
        f"{duration(worker['silent'])} ago",
        str(worker["connections"]),
        str(worker["in_flight"]),
        str(worker["requests"]),
        "" if worker["memory"] is None else f"{worker['memory'] / 2**20:.0f} MiB",
    )


def slot_remarks(slot: SlotStatus) -> list[str]:
    remarks = []
    if not slot["receiving"]:
        remarks.append(f"Slot {slot['slot']} gets no new connections now.")
    if slot["trouble"]:
        remarks.append(f"{slot['trouble']}.")
    if slot["restarts"]:
        reasons = ", ".join(
            f"{reason}{f' ({times} times)' if times > 1 else ''}" for reason, times in slot["restarts"].items()
        )
        remarks.append(f"Slot {slot['slot']} was restarted: {reasons}.")
    return remarks


def duration(seconds: float) -> str:
    """Two units at most: 3 s, 2 min 5 s, 4 h 10 min, 12 d 3 h."""
    whole = max(0, int(seconds))
    for unit, name, smaller, smaller_name in (
        (DAY, "d", HOUR, "h"),
        (HOUR, "h", MINUTE, "min"),
        (MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole} s"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    """Without control characters other than line ends: another user's server must not command this terminal."""
    return "".join(c if c == "\n" or unicodedata.category(c)[0] != "C" else "?" for c in text)
