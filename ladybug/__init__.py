"""Ladybug, an ASGI server.

What users import is named here, and loaded when it is first used: `import ladybug` costs nothing, and the master
process, which imports this package too, stays small.
"""

__version__ = "0.1.0"

__all__ = ["Config", "ConfigError", "Server", "StartupError", "__version__", "run"]

TYPE_CHECKING = False  # known to type checkers by this name; importing it would bring all of `typing`
if TYPE_CHECKING:
    from ladybug.config import Config
    from ladybug.exceptions import ConfigError, StartupError
    from ladybug.launch import run
    from ladybug.server import Server

_HOME = {
    "Config": "ladybug.config",
    "ConfigError": "ladybug.exceptions",
    "Server": "ladybug.server",
    "StartupError": "ladybug.exceptions",
    "run": "ladybug.launch",
}


if not TYPE_CHECKING:  # or type checkers would believe that every name is here

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value: object = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
