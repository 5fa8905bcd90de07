"""The command `ladybug`: built from the table of settings, it makes a `Config` and serves.

click takes the command line apart and prints help and errors; values are validated by the same kinds as everywhere, and
LADYBUG_<NAME> variables are read here, by the same kinds again, so that a wrong one is named in the error.
Exit codes: 0 after a clean stop, 2 for a wrong command line or setting, 3 when the server cannot start.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from ladybug.config import SETTINGS, Config
from ladybug.exceptions import ConfigError
from ladybug.hints import PREFIX, foreign_option, is_foreign, is_service, service_in_the_way, strange_variables
from ladybug.setting import Setting, Switch


class LadybugCommand(click.Command):
    """Adds to click's command: help by groups, an answer to who types an option of another server, and `ladybug ctl`."""

    def main(  # type: ignore[override]  # click's overloads say when it never returns
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        # No application is called so: it would have a colon.
        if words[:1] == ["ctl"]:
            from ladybug.ctl import ctl

            return ctl.main(words[1:], "ladybug ctl", **extra)
        return super().main(words, prog_name, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(_without_words(args)))
        except click.NoSuchOption as error:
            name = error.option_name.lstrip("-").replace("-", "_")
            if not is_foreign(name):
                raise
            raise click.UsageError(f"{error.option_name}: {foreign_option(name)}.", ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {row.group: [] for row in SETTINGS}
        rows = {row.name: row for row in SETTINGS}
        for parameter in self.get_params(ctx):
            row = rows.get(parameter.name or "")
            record = (row.flag, row.help) if row is not None and row.is_argument else parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(row.group if row is not None else "Other", []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)


def parameter(row: Setting[Any, Any]) -> click.Parameter:
    """The click parameter of one setting. All values stay text, or None: validating them is the setting's business."""
    if row.is_argument:
        return click.Argument([row.name], required=False, metavar=row.kind.metavar, type=str)
    help = row.help + (f"  [default: {row.shown_default}]" if row.shown_default else "")
    declaration = [row.flag, row.name]
    if row.is_switch:
        return click.Option(declaration, default=None, help=help)
    return click.Option(declaration, type=str, multiple=row.is_repeatable, metavar=row.kind.metavar, help=help)


HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}

SWITCHES = {on: off for row in SETTINGS if row.is_switch for on, off in [row.flag.split("/")]}


def _without_words(args: Sequence[str]) -> Iterator[str]:
    """`--switch true` and `--switch=false`, as uvicorn has it for one of them, become --switch and --no-switch.

    No application is called true: it would have a colon.
    """
    left = list(args)
    while left:
        arg = left.pop(0)
        flag, equals, word = arg.partition("=")
        if flag in SWITCHES and not equals and left and left[0].lower() in Switch.ON | Switch.OFF:
            word = left.pop(0)
        if flag in SWITCHES and word.lower() in Switch.ON | Switch.OFF:
            yield flag if word.lower() in Switch.ON else SWITCHES[flag]
        else:
            yield arg


def given_values(arguments: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given, validated: on the command line (`arguments`), else in LADYBUG_ variables."""
    values = {}
    for row in SETTINGS:
        given, source = arguments.get(row.name), row.flag
        if given is None or given == ():
            # An empty variable is one that is not set, as everywhere in click.
            given, source = os.environ.get(row.env) or None, row.env
        if given is not None:
            try:
                values[row.name] = row.kind(given)
            except ValueError as error:
                why = service_in_the_way(source) if source.endswith("_PORT") and is_service(given) else str(error)
                raise click.BadParameter(f"{why}.", param_hint=f"'{source}'") from None
    return values


def remarks(config: Config) -> list[str]:
    """What the user should hear of variables that are not what they seem; not of those that are wrong."""
    late = sorted(name for name in config.names_from_env_file if name.startswith(PREFIX))
    names = [row.env for row in SETTINGS]
    environment = {name: value for name, value in os.environ.items() if name not in late}
    return [
        *strange_variables(environment, names),
        *(f"{name}: it stands in the file of --env-file, which is read too late for it" for name in late),
    ]


def command(**arguments: Any) -> None:
    """Serve the ASGI application APP, given as module:attribute.

    `ladybug ctl --help` tells how to ask and command a server that is running.

    Every option is also read from a variable: --log-level from LADYBUG_LOG_LEVEL, APP from LADYBUG_APP. What is given
    on the command line wins.
    """
    values = given_values(arguments)
    if "app" not in values:
        raise click.UsageError("Missing argument 'APP': what to serve, as module:attribute (or in LADYBUG_APP).")
    from ladybug.alarm import end_within
    from ladybug.launch import serve
    from ladybug.link import ALARM_MARGIN

    try:
        config = Config(values.pop("app"), **values)
        code = serve(config, remarks(config))
    except ConfigError as error:
        raise click.UsageError(f"{error}.") from None
    if config.workers == 0:
        # What the application has left in this process (threads, exit handlers) has as long as it would have in a worker.
        end_within(ALARM_MARGIN)
    sys.exit(code)


def print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from ladybug.about import version_line

        click.echo(version_line())
        ctx.exit()


main = LadybugCommand(
    "ladybug",
    callback=command,
    help=command.__doc__,
    context_settings=HELP_OPTIONS,
    params=[
        *(parameter(row) for row in SETTINGS),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=print_version,
            help="Print version, compiled or not, Python and event loop, and exit.",
        ),
    ],
)
