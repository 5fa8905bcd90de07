"""The documentation, held to what it says: links lead somewhere, commands parse, snippets run, examples answer.

Blocks of a page are what Markdown calls them: indented by four, or fenced. A command in one is a line that begins with
`ladybug `, `$ ladybug `, or `python -m ladybug `; variables set in front of it belong to it.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import ladybug
from ladybug.cli import given_values, main
from ladybug.config import SETTINGS, Config
from ladybug.ctl import ctl
from ladybug.hints import NOT_SUPPORTED, OTHERS, foreign_option, is_foreign
from tests.integration.support import ROOT, Client, Program, Server, serve
from tests.integration.websocket.peer import connect, handshake_bytes

EXAMPLES = ROOT / "examples"
PAGES = sorted([*ROOT.glob("*.md"), *(page for room in ("docs", "benchmarks") for page in (ROOT / room).rglob("*.md"))])

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"(?:\$ )?((?:[A-Z_]+=\S+ )*(?:python -m )?ladybug (?![\[0-9]).*)")


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose_of(page: Path) -> str:
    """The text of a page without its blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)


def blocks_of(page: Path) -> list[str]:
    """The lines that stand in blocks, without their indentation."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in fenced for line in block.splitlines()]
    return lines + [line[4:] for line in page.read_text().splitlines() if line.startswith("    ")]


def anchors_of(page: Path) -> set[str]:
    """The names GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ +(.+?)\s*$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(prose_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_names_of_files_and_modules_exist(page: Path) -> None:
    """What is set in type and looks like a path of the repository is one."""
    rooms = "ladybug", "tests", "docs", "examples", "benchmarks", "scripts", "protocol", "asgi"
    names = re.findall(rf"`((?:{'|'.join(rooms)})/[\w./-]*)`", prose_of(page))
    # Written by the measurement itself, and not kept.
    made = {"benchmarks/samples/"}
    missing = {name for name in names if not (ROOT / name).exists() and not (ROOT / "ladybug" / name).exists()} - made
    assert not missing


def members() -> dict[str, set[str]]:
    """What the classes of the package have, by class: methods, and attributes set on self."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "ladybug").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                names = found.setdefault(node.name, set())
                for part in ast.walk(node):
                    if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        names.add(part.name)
                    elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                        names.add(part.attr)
    return found


def test_the_path_of_a_request_leads_through_functions_that_exist() -> None:
    """Every Class.member that ARCHITECTURE.md names."""
    named = set(re.findall(r"\b(_?[A-Z]\w*)\.([a-z_]\w*)", (ROOT / "ARCHITECTURE.md").read_text()))
    named = {(owner, name) for owner, name in named if name != "md"}
    known = members()
    assert len(named) > 20
    assert {(owner, name) for owner, name in named if name not in known.get(owner, set())} == set()


def commands() -> list[Any]:
    """Every command shown to readers, on a page or in the plate of an example."""
    sources = [(page, line) for page in PAGES for line in blocks_of(page)]
    for example in sorted(EXAMPLES.glob("*.py")):
        plate = ast.get_docstring(ast.parse(example.read_text())) or ""
        sources += [(example, line.strip()) for line in plate.splitlines()]
    found = [(source, match[1]) for source, line in sources if (match := _COMMAND.fullmatch(line.strip()))]
    return [pytest.param(command, id=f"{label(source)}: {command}") for source, command in found]


@pytest.mark.parametrize("command", commands())
def test_a_command_does_what_its_page_says(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It parses, its settings are valid, and what it serves is there; or it shows an option that is refused."""
    for name in [name for name in os.environ if name.startswith("LADYBUG_")]:
        monkeypatch.delenv(name)
    words = shlex.split(command, comments=True)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
    arguments = words[1:] if words[0] == "ladybug" else words[3:]
    if arguments[0] == "ctl":
        _, subcommand, rest = ctl.resolve_command(click.Context(ctl), arguments[1:])
        assert subcommand is not None
        subcommand.make_context(subcommand.name, rest)
        return
    try:
        context = main.make_context("ladybug", list(arguments))
    except click.exceptions.Exit as done:
        assert done.exit_code == 0 and {"--version", "--help"} & set(arguments)
        return
    except click.UsageError as error:
        name = arguments[0].lstrip("-").replace("-", "_")
        assert is_foreign(name) and foreign_option(name) in error.message
        return
    values = given_values(context.params)
    config = Config(values.pop("app"), **values)
    if config.app_dir == "examples":
        module = str(config.app).partition(":")[0]
        assert (EXAMPLES / f"{module}.py").exists()


def options_in(page: Path) -> set[str]:
    return set(re.findall(r"`(--[a-z][a-z0-9-]*)", page.read_text()))


def test_pages_name_only_options_that_are_there() -> None:
    known = {option for row in SETTINGS for option in row.flag.split("/")} | {"--version", "--help"}
    uvicorns = {f"--{name.replace('_', '-')}" for name in NOT_SUPPORTED}
    others = {f"--{name.replace('_', '-')}" for options in OTHERS.values() for name in options}
    families = {"--ssl-"}
    pages = ("README.md", "docs/protocol.md", "docs/signals.md", "docs/deployment.md")
    named = set().union(*(options_in(ROOT / page) for page in pages))
    assert named <= known | uvicorns | others | families


def snippets() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)


def test_snippets_of_the_readme_use_names_that_are_there() -> None:
    used = set()
    for snippet in snippets():
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ladybug":
                used.add(node.attr)
    assert used == {"run", "Config", "Server"}
    assert used <= set(ladybug.__all__)


def test_the_embedding_snippet_runs() -> None:
    (snippet,) = (snippet for snippet in snippets() if "Server" in snippet)
    program = snippet.replace("asyncio.sleep(60)", "asyncio.sleep(0)") + (
        "\n\nasync def app(scope, receive, send):\n    assert scope['type'] == 'http'\n"
        "\n\nasyncio.run(main(app))\nprint('over')\n"
    )
    running = Program([sys.executable, "-c", program])
    try:
        assert running.wait() == 0
    finally:
        if running.process.poll() is None:
            running.kill()
    assert re.search(r"\('127\.0\.0\.1', \d+\)\nover\n", running.output.text("stdout"))
    running.check_log()


# -- examples: each starts under the command its plate shows, and answers


def example(name: str, **how: Any) -> Any:
    return serve(f"examples.{name}:app", **how)


def test_every_example_is_tested_here() -> None:
    here = Path(__file__).read_text()
    assert [path.stem for path in EXAMPLES.glob("*.py") if path.stem not in here] == []


def test_hello() -> None:
    with example("hello") as server:
        assert server.request("/").body == b"Hello, world!"


def test_fastapi_app_keeps_notes_that_all_workers_see(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    kind = ("Content-Type: application/json",)
    with example("fastapi_app", workers=2, env={"NOTES_DB": str(tmp_path / "notes.sqlite3")}) as server:
        added = server.request("/notes", method="POST", headers=kind, body=b'{"text": "buy milk"}')
        assert (added.status, added.body) == (201, b'{"text":"buy milk","id":1}')
        # Connections of their own, which the kernel spreads over the workers.
        for _ in range(8):
            assert server.request("/notes").body == b'[{"text":"buy milk","id":1}]'
        assert server.request("/notes", method="POST", headers=kind, body=b'{"text": ""}').status == 422
        assert server.request("/notes/1", method="DELETE").status == 204
        assert server.request("/notes/1", method="DELETE").status == 404
        upload = server.request("/checksum", method="PUT", chunks=[b"a" * 70_000, b"b"])
        assert upload.status == 200 and b'"size":70001' in upload.body


def test_starlette_app_streams_and_stops_its_events() -> None:
    pytest.importorskip("starlette")
    with example("starlette_app") as server:
        assert server.request("/").status == 200
        table = server.request("/table.csv?rows=1200").body.splitlines()
        assert (len(table), table[0], table[-1]) == (1201, b"number,square", b"1199,1437601")
        assert server.request("/source").body == (EXAMPLES / "starlette_app.py").read_bytes()
        listener = server.connect()
        listener.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = bytearray()
        while b"event: time\ndata: " not in received:
            received += listener.socket.recv(4096)
        assert b"text/event-stream" in received
        # The stream ends by itself when the server stops: complete, long before the graceful timeout would cut it.
        server.signal(signal.SIGTERM)
        while piece := listener.socket.recv(4096):
            received += piece
        assert received.endswith(b"0\r\n\r\n")
        assert server.wait() == 0
        assert "ancel" not in server.output.text()


def cookie_of(server: Server, *headers: str) -> tuple[bytes, str]:
    answer = server.request("/", headers=headers)
    (cookie,) = answer.all(b"set-cookie")
    return answer.body, "Cookie: " + cookie.decode().partition(";")[0]


def test_django_app_remembers_its_visitor() -> None:
    pytest.importorskip("django")
    with example("django_app", workers=2, env={"SECRET_KEY": "anything"}) as server:
        first, cookie = cookie_of(server)
        second, cookie = cookie_of(server, cookie)
        assert (first, second) == (b"This is visit 1 from 127.0.0.1.\n", b"This is visit 2 from 127.0.0.1.\n")
        assert server.request("/slow").body == b'{"waited": 0.1}'


def test_quart_app_takes_a_form() -> None:
    pytest.importorskip("quart")
    with example("quart_app") as server:
        form = ("Content-Type: application/x-www-form-urlencoded",)
        assert server.request("/", method="POST", headers=form, body=b"name=Ada").status == 302
        page = server.request("/").body
        assert b"the server, at startup" in page and b"<li>Ada</li>" in page


def test_websocket_chat_lets_everybody_hear() -> None:
    with example("websocket_chat") as server:
        assert b"new WebSocket(" in server.request("/").body
        with connect(server) as ada, connect(server) as bob:
            ada.open("/room?name=Ada", headers=["Origin: http://localhost"])
            assert ada.read_message() == "Ada has come in"
            bob.open("/room?name=Bob")
            assert ada.read_message() == bob.read_message() == "Bob has come in"
            bob.send_text("käse?")
            assert ada.read_message() == bob.read_message() == "Bob: käse?"
            bob.finish()
            assert ada.read_message() == "Bob has left"
        with connect(server) as stranger:
            stranger.send(handshake_bytes("/room?name=Eve", headers=["Origin: https://example.org"]))
            assert stranger.read_response().status == 403


def test_the_websocket_page_shows_an_application_that_works(tmp_path: Path) -> None:
    (program,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/websocket.md").read_text(), re.DOTALL | re.MULTILINE
    )
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "echo.py").write_text(program)
    options = ("--app-dir", str(tmp_path), "--lifespan", "off")
    with serve("shown.echo:app", *options) as server, connect(server) as peer:
        peer.open("/").send_text("hi")
        assert peer.read_message() == "HI"
        peer.finish()


def test_embedding_serves_its_page_and_stops() -> None:
    program = Program([sys.executable, str(EXAMPLES / "embedding.py")])
    try:
        port = int(program.output.wait_for(r"Serving on http://127\.0\.0\.1:(\d+)")[1])
        with Client(("127.0.0.1", port)) as client:
            assert client.request("/").body.startswith(b"The program has counted to ")
        program.signal(signal.SIGINT)
        assert program.wait() == 0
    finally:
        if program.process.poll() is None:
            program.kill()
    assert "Stopped after 1 requests" in program.output.text()
    program.check_log()
