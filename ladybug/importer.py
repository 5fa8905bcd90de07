"""Finding the application: from "module:attribute" to an ASGI 3 callable.

What comes in is the user's code, so whatever goes wrong here is reported as one `StartupError` whose text is complete:
our own findings in a sentence with what to do, the user's exceptions with their traceback, from the user's first line
on (our and importlib's frames would only hide it).
"""

import importlib
import inspect
import logging
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ladybug.exceptions import StartupError
from ladybug.hints import INTERFACES_OF_OTHERS

if TYPE_CHECKING:
    from types import TracebackType

    from ladybug.config import Config

# The application's border: ASGI messages and scopes are dictionaries of anything.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI3App = Callable[[Scope, Receive, Send], Awaitable[None]]
ASGI2App = Callable[[Scope], Callable[[Receive, Send], Awaitable[None]]]


def load_app(config: "Config") -> ASGI3App:
    """Import the application, call its factory, and make an ASGI 3 callable of it: an ASGI2Adapter of one that is ASGI 2.

    Raises StartupError.
    """
    app: object = config.app
    name = "the application"
    if isinstance(app, str):
        name = app
        if config.app_dir is not None:
            put_first_in_path(config.app_dir)
        app = import_attribute(app, "the application")
    if config.factory or _must_be_factory(app):
        if not config.factory:
            logging.getLogger("ladybug.error").warning("%s takes no arguments: calling it as with --factory.", name)
        app, name = _made_by(app, name), f"what {name} returned"
    if not callable(app):
        raise StartupError(f"Cannot serve {name}: it is {_described(app)}, not a callable ASGI application.")
    interface = detect_interface(app) if config.interface == "auto" else config.interface
    if config.interface == "auto" and interface == "asgi2" and _is_wsgi(app):
        raise StartupError(f"Cannot serve {name}, which is WSGI: {INTERFACES_OF_OTHERS['wsgi']}.")
    if interface == "asgi2":
        return ASGI2Adapter(cast(ASGI2App, app))
    return cast(ASGI3App, app)


def put_first_in_path(directory: str) -> None:
    """Make Python look for modules in `directory` first; "" is the working directory."""
    absolute = str(Path(directory).absolute())
    if sys.path[:1] != [absolute]:
        sys.path.insert(0, absolute)


def import_attribute(name: str, what: str) -> object:
    """Import "module:attribute", dots allowed on both sides. `what` says in errors what it was wanted for."""
    module_name, _, attributes = name.partition(":")
    if not module_name or not attributes:
        hint = _module_hint(name)
        raise StartupError(f'Cannot import {what}: "{name}" must be in format <module>:<attribute>{hint}.')
    if module_name.startswith("."):  # a path; there is nothing that it could be relative to
        raise StartupError(_missing_module(name, what, module_name))
    try:
        with _importing(name):
            value: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only if it is the named module itself that is missing: what it imports in turn is its own affair.
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise StartupError(_missing_module(name, what, error.name)) from None
        raise StartupError(_failed_import(name, what, error)) from error
    except StartupError:  # of ours, met by the user's module: complete as it is
        raise
    except (Exception, SystemExit) as error:
        raise StartupError(_failed_import(name, what, error)) from error
    for depth, attribute in enumerate(attributes.split(".")):
        try:
            value = getattr(value, attribute)
        except AttributeError:
            owner = module_name if depth == 0 else module_name + ":" + ".".join(attributes.split(".")[:depth])
            raise StartupError(_missing_attribute(name, what, owner, value, attribute)) from None
        except Exception as error:  # a module's __getattr__ that imports lazily, a property
            raise StartupError(_failed_import(name, what, error)) from error
    return value


def now_importing() -> str | None:
    """The import string that is being imported at this moment: code that asks is run by that import."""
    return _now_importing[-1] if _now_importing else None


_now_importing: list[str] = []


@contextmanager
def _importing(name: str) -> Iterator[None]:
    _now_importing.append(name)
    try:
        yield
    finally:
        _now_importing.pop()


def detect_interface(app: object) -> Literal["asgi3", "asgi2"]:
    """Tell ASGI 3 from ASGI 2 as uvicorn does.

    A class is ASGI 3 if its instances can be awaited, a function if it is a coroutine function, and any other object
    if its __call__ is one. Beyond uvicorn's rule, methods and functools.partial count as the functions they hold.
    """
    if inspect.isclass(app):
        is_three = hasattr(app, "__await__")
    else:
        call = getattr(app, "__call__", None)  # noqa: B004
        is_three = inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(call)
    return "asgi3" if is_three else "asgi2"


def _is_wsgi(app: Callable[..., object]) -> bool:
    """True for what takes two arguments and not one, as app(environ, start_response) does (PEP 3333)."""
    try:
        signature = inspect.signature(app)
        signature.bind(None, None)
    except (TypeError, ValueError):
        return False
    try:
        signature.bind(None)
    except TypeError:
        return True
    return False


class ASGI2Adapter:
    """Makes ASGI 3 of ASGI 2: app(scope) gives an instance, instance(receive, send) a coroutine."""

    def __init__(self, app: ASGI2App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope)(receive, send)


def _must_be_factory(app: object) -> bool:
    """True for what can be called with nothing, and with nothing else: uvicorn calls such an APP without --factory too."""
    if not callable(app):
        return False
    try:
        signature = inspect.signature(app)
        signature.bind()
    except (TypeError, ValueError):
        return False
    return not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values())


def _made_by(factory: object, name: str) -> object:
    if not callable(factory):
        raise StartupError(f"Cannot call {name} for the application: it is {_described(factory)}, not a factory.")
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise StartupError(f"The application factory {name} failed:\n\n{_users_traceback(error)}") from error


def _module_hint(name: str) -> str:
    """What was probably meant: main.py or app/main.py typed for main:app, or the attribute left out."""
    module = name.removesuffix(":").removesuffix(".py").strip("./").replace("/", ".")
    return f", for example {module}:app" if module and all(part.isidentifier() for part in module.split(".")) else ""


def _missing_module(name: str, what: str, missing: str) -> str:
    path, colon, attribute = name.partition(":")
    if path.endswith(".py") or "/" in path:
        suggestion = path.removesuffix(".py").strip("./").replace("/", ".") + colon + attribute
        return f'Cannot import {what} "{name}": give the module, not its file: "{suggestion}".'
    return (
        f'Cannot import {what} "{name}": there is no module named "{missing}" in {sys.path[0] or Path.cwd()} or the rest'
        " of sys.path. Is it spelled right? If it is in another directory, give --app-dir."
    )


def _failed_import(name: str, what: str, error: BaseException) -> str:
    return f'Cannot import {what} "{name}": importing it failed:\n\n{_users_traceback(error)}'


def _missing_attribute(name: str, what: str, owner: str, value: object, attribute: str) -> str:
    close = get_close_matches(attribute, [known for known in dir(value) if not known.startswith("__")], n=1)
    hint = f'; did you mean "{close[0]}"?' if close else "."
    factory, parenthesis, _ = attribute.partition("(")
    if parenthesis:  # gunicorn calls it
        hint = f'; for what "{factory}" returns, give {owner}:{factory} and --factory.'
    return f'Cannot import {what} "{name}": "{owner}" has no attribute "{attribute}"{hint}'


def _described(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _users_traceback(error: BaseException) -> str:
    """The traceback from the first frame that is neither ours nor importlib's."""
    start: TracebackType | None = error.__traceback__
    while start is not None and start.tb_next is not None and _is_machinery(start):
        start = start.tb_next
    if start is not None and _is_machinery(start):
        start = None  # a SyntaxError in the user's file: no frame of theirs, and the message shows the line
    return "".join(traceback.format_exception(type(error), error, start)).rstrip()


def _is_machinery(frame: "TracebackType") -> bool:
    file = frame.tb_frame.f_code.co_filename
    return file.startswith("<frozen importlib") or file in (__file__, importlib.__file__)
