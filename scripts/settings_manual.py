"""Writes docs/settings.md from the table of settings in ladybug/config.py: `python scripts/settings_manual.py`.

A test fails when the file is out of date.
"""

from pathlib import Path
from typing import Any

from ladybug.config import SETTINGS
from ladybug.hints import NOT_SUPPORTED, UVICORN
from ladybug.setting import Setting

TARGET = Path(__file__).parent.parent / "docs" / "settings.md"

HEAD = """\
# Settings

<!-- Written by scripts/settings_manual.py from the table in ladybug/config.py. Change it there. -->

Each setting can be given

- on the command line: `ladybug --port 8080 module:app`;
- in the environment of the command: `LADYBUG_PORT=8080 ladybug module:app`;
- in a program: `ladybug.run("module:app", port=8080)` or `ladybug.Config("module:app", port=8080)`.

The command line wins over `LADYBUG_` variables; these win over `WEB_CONCURRENCY` and `FORWARDED_ALLOW_IPS`, which programs
heed too; then comes the default. An empty variable counts as not set. A `LADYBUG_` variable that is no setting is told of in
the log, unless Kubernetes or Docker have set it for a service whose name begins with `ladybug`. In variables, switches take
`1`, `true`, `yes`, `on` or `0`, `false`, `no`, `off`. Durations are seconds and may have a fraction. A value that is not
valid ends the command with exit code 2 and raises `ladybug.ConfigError` in a program; what is valid and cannot be had (a
port in use, a user that does not exist, a module that cannot be imported) is found out at the start, and ends it with 3.

Names and meanings are uvicorn's where uvicorn has the option. Two defaults differ on purpose: `--timeout-keep-alive` and
`--timeout-graceful-shutdown` say why.
"""


def manual() -> str:
    """The whole text of docs/settings.md."""
    parts = [HEAD]
    for group in dict.fromkeys(row.group for row in SETTINGS):
        parts.append(f"## {group}\n")
        parts.extend(entry(row) for row in SETTINGS if row.group == group)
    parts.append("## Options of uvicorn that are not supported yet\n")
    parts.append("They are refused, not ignored: " + ", ".join(f"`{name}`" for name in NOT_SUPPORTED) + ".\n")
    parts.append("## Options of uvicorn that are not needed\n")
    parts.append("They are refused too: " + ", ".join(f"`{name}`" for name in UVICORN) + ".\n")
    return "\n".join(parts)


def entry(row: Setting[Any, Any]) -> str:
    """One setting: how it is typed, what it does, its default and its other names."""
    typed = row.flag if row.is_argument or row.is_switch else f"{row.flag} {row.kind.metavar}"
    facts = [f"default: {row.shown_default}"] if row.shown_default else []
    facts.append(f"variable: `{row.env}`" + (f" or `{row.shared_env}`" if row.shared_env else ""))
    if row.is_repeatable:
        facts[-1] += ", one per line"
    facts.append(f"in programs: `{row.name}`")
    return f"### `{typed.replace('/', ' / ')}`\n\n{row.help}\n\n{' · '.join(facts)}\n"


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(manual(), encoding="utf-8")
    print(f"wrote {TARGET}")
