"""Finding the application: what loads, and what is said about what does not."""

import functools
import inspect
import itertools
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ladybug.config import Config
from ladybug.exceptions import StartupError
from ladybug.importer import ASGI2Adapter, Receive, Scope, Send, detect_interface, load_app, now_importing

numbers = itertools.count()


@pytest.fixture(autouse=True)
def _modules_and_path_restored() -> Iterator[None]:
    path, modules = sys.path[:], set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


class Project:
    """A directory of the user's modules; each gets a name of its own, as sys.modules remembers for ever."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def module(self, source: str) -> str:
        name = f"users_module_{next(numbers)}"
        (self.directory / f"{name}.py").write_text(source)
        return name

    def load(self, app: str, **settings: Any) -> Callable[..., Awaitable[None]]:
        return load_app(Config(app, app_dir=self.directory, **settings))

    def failure(self, app: str, **settings: Any) -> str:
        with pytest.raises(StartupError) as caught:
            self.load(app, **settings)
        return str(caught.value)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


async def asgi3(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "three"})


class ASGI2:
    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, receive: Receive, send: Send) -> None:
        await send({"type": "two", "scope": self.scope, "received": await receive()})


def asgi2(scope: Scope) -> ASGI2:
    return ASGI2(scope)


class Callable3:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError

    async def method(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class Awaitable3:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError

    def __await__(self) -> Iterator[None]:
        raise NotImplementedError


APP = "async def app(scope, receive, send): pass\n"


@pytest.mark.parametrize(
    ("app", "interface"),
    [
        (asgi3, "asgi3"),
        (Callable3(), "asgi3"),
        (Callable3().method, "asgi3"),
        (functools.partial(asgi3), "asgi3"),
        (Awaitable3, "asgi3"),
        (asgi2, "asgi2"),
        (ASGI2, "asgi2"),
        (functools.partial(asgi2), "asgi2"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_interface_is_told_by_looking_at_the_application(app: object, interface: str) -> None:
    assert detect_interface(app) == interface


def test_an_asgi_2_application_is_served_as_asgi_3() -> None:
    app = load_app(Config(ASGI2))
    assert isinstance(app, ASGI2Adapter)
    assert inspect.iscoroutinefunction(ASGI2Adapter.__call__)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "given"}

    async def send(message: Any) -> None:
        sent.append(message)

    coroutine = app({"type": "http"}, receive, send)
    assert inspect.iscoroutine(coroutine)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert sent == [{"type": "two", "scope": {"type": "http"}, "received": {"type": "given"}}]


class WSGI:
    def __call__(self, environ: Any, start_response: Any) -> Any: ...


@pytest.mark.parametrize(
    "app", [WSGI(), WSGI().__call__, lambda environ, start_response: [b""]], ids=["object", "method", "function"]
)
def test_a_wsgi_application_is_known_for_what_it_is(app: Any) -> None:
    with pytest.raises(
        StartupError, match=r"^Cannot serve the application, which is WSGI: .* a2wsgi\.WSGIMiddleware\.$"
    ):
        load_app(Config(app))
    assert isinstance(load_app(Config(app, interface="asgi2")), ASGI2Adapter), "who says what it is knows better"


@pytest.mark.parametrize("name", ["examples/hello.py:app", "./examples/hello.py:app", "examples/hello:app"])
def test_a_path_is_told_from_a_module(name: str) -> None:
    with pytest.raises(StartupError, match=r'give the module, not its file: "examples\.hello:app"\.$'):
        load_app(Config(name))


def test_an_application_object_is_taken_as_it_is() -> None:
    assert load_app(Config(asgi3)) is asgi3


def test_the_interface_can_be_said_instead_of_detected() -> None:
    assert isinstance(load_app(Config(asgi3, interface="asgi2")), ASGI2Adapter)
    assert isinstance(load_app(Config(Callable3(), interface="asgi3")), Callable3)


def test_module_and_attribute_may_have_dots(project: Project) -> None:
    (project.directory / "users_package_a" / "inner").mkdir(parents=True)
    (project.directory / "users_package_a" / "inner" / "web.py").write_text(
        APP + "class site:\n    class api:\n        handler = app\n"
    )
    app = project.load("users_package_a.inner.web:site.api.handler")
    assert app is sys.modules["users_package_a.inner.web"].app


def test_app_dir_is_searched_first_and_is_the_working_directory_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Project(tmp_path).module(APP)
    monkeypatch.chdir(tmp_path)
    load_app(Config(f"{name}:app"))
    assert sys.path[0] == str(tmp_path)
    assert sys.modules[name].__file__ == str(tmp_path / f"{name}.py")


def test_app_dir_none_leaves_the_path_alone(project: Project) -> None:
    before = sys.path[:]
    with pytest.raises(StartupError):
        load_app(Config(f"{project.module(APP)}:app", app_dir=None))
    assert sys.path == before


def test_a_factory_is_called(project: Project) -> None:
    name = project.module(APP + "def make(): return app\n")
    app = project.load(f"{name}:make", factory=True)
    assert app is sys.modules[name].app
    assert load_app(Config(lambda: asgi3, factory=True)) is asgi3


def test_what_can_only_be_a_factory_is_called_with_a_warning(
    caplog: pytest.LogCaptureFixture, project: Project
) -> None:
    name = project.module(APP + "def make(): return app\n")
    app = project.load(f"{name}:make")
    assert app is sys.modules[name].app
    assert f"{name}:make takes no arguments: calling it as with --factory." in caplog.text


@pytest.mark.parametrize(
    ("typed", "example"),
    [
        ("main", ", for example main:app"),
        ("main.py", ", for example main:app"),
        ("./src/main.py", ", for example src.main:app"),
        ("main:", ", for example main:app"),
        (":app", ""),
        ("", ""),
        ("not a module", ""),
    ],
)
def test_a_string_without_module_or_attribute_is_explained(project: Project, typed: str, example: str) -> None:
    expected = f'Cannot import the application: "{typed}" must be in format <module>:<attribute>{example}.'
    assert project.failure(typed) == expected


@pytest.mark.parametrize("name", ["no_such_module", "no_such_module.inner", "email.no_such_module"])
def test_a_missing_module_is_named_with_where_it_was_looked_for(project: Project, name: str) -> None:
    text = project.failure(f"{name}:app")
    missing = "no_such_module" if name == "no_such_module.inner" else name
    assert text.startswith(
        f'Cannot import the application "{name}:app": there is no module named "{missing}" in {project.directory} or'
    )
    assert "--app-dir" in text
    assert "Traceback" not in text


def test_a_module_missing_inside_the_users_module_is_not_called_a_missing_application(project: Project) -> None:
    name = project.module("import no_such_dependency\n")
    text = project.failure(f"{name}:app")
    assert text.startswith(f'Cannot import the application "{name}:app": importing it failed:\n\nTraceback')
    assert text.endswith("ModuleNotFoundError: No module named 'no_such_dependency'")
    assert f'{name}.py", line 1, in <module>\n    import no_such_dependency' in text


def test_an_exception_in_the_users_module_keeps_its_traceback_and_only_its(project: Project) -> None:
    name = project.module("def connect():\n    raise RuntimeError('no database')\n\nconnect()\n")
    text = project.failure(f"{name}:app")
    assert text.endswith("RuntimeError: no database")
    assert f'{name}.py", line 4, in <module>' in text
    assert f'{name}.py", line 2, in connect' in text
    assert "importlib" not in text
    assert "importer.py" not in text


def test_a_syntax_error_is_shown_with_its_line(project: Project) -> None:
    name = project.module("def app(:\n")
    text = project.failure(f"{name}:app")
    assert f'{name}.py", line 1\n    def app(:' in text
    assert "SyntaxError: " in text
    assert "importlib" not in text


def test_a_module_that_exits_is_a_failure_too(project: Project) -> None:
    name = project.module("import sys\nsys.exit('usage: python me')\n")
    assert "SystemExit: usage: python me" in project.failure(f"{name}:app")


def test_a_missing_attribute_comes_with_the_nearest_one(project: Project) -> None:
    name = project.module("class site:\n    handler = 1\napplication = 1\n")
    assert project.failure(f"{name}:aplication") == (
        f'Cannot import the application "{name}:aplication": "{name}" has no attribute "aplication"; '
        'did you mean "application"?'
    )
    assert f'"{name}:site" has no attribute "handlr"; did you mean "handler"?' in project.failure(f"{name}:site.handlr")
    assert project.failure(f"{name}:zzz").endswith('has no attribute "zzz".')


def test_a_factory_is_not_called_in_the_string_as_gunicorn_does(project: Project) -> None:
    name = project.module("def create(name='x'): pass\n")
    for typed in ("create()", "create('a.b')"):
        assert project.failure(f"{name}:{typed}").endswith(
            f'; for what "create" returns, give {name}:create and --factory.'
        )


def test_an_attribute_that_raises_is_the_users_exception(project: Project) -> None:
    name = project.module("def __getattr__(name):\n    raise RuntimeError('lazy import failed')\n")
    text = project.failure(f"{name}:app")
    assert text.startswith(f'Cannot import the application "{name}:app": importing it failed:')
    assert text.endswith("RuntimeError: lazy import failed")


def test_what_is_not_callable_is_refused(project: Project) -> None:
    name = project.module("app = 5\nnothing = None\ndef make(): pass\n")
    expected = f"Cannot serve {name}:app: it is an object of type int, not a callable ASGI application."
    assert project.failure(f"{name}:app") == expected
    assert "it is None, not a callable" in project.failure(f"{name}:nothing")
    assert f"Cannot call {name}:app for the application: it is an object of type int" in project.failure(
        f"{name}:app", factory=True
    )
    assert f"Cannot serve what {name}:make returned: it is None, not a callable" in project.failure(
        f"{name}:make", factory=True
    )


def test_a_factory_that_raises_keeps_its_traceback(project: Project) -> None:
    name = project.module("def make():\n    return {}['missing']\n")
    text = project.failure(f"{name}:make", factory=True)
    assert text.startswith(f"The application factory {name}:make failed:\n\nTraceback")
    assert f'{name}.py", line 2, in make' in text
    assert text.endswith("KeyError: 'missing'")
    assert "importer.py" not in text


def test_code_can_ask_whether_it_is_being_imported(project: Project) -> None:
    name = project.module("from ladybug.importer import now_importing\nasked = now_importing()\n" + APP)
    project.load(f"{name}:app")
    assert sys.modules[name].asked == f"{name}:app"
    assert now_importing() is None
