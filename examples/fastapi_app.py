"""A notebook with a JSON API: FastAPI on Ladybug.

    ladybug --app-dir examples --workers 2 fastapi_app:app
    curl -X POST localhost:8000/notes -H 'content-type: application/json' -d '{"text": "buy milk"}'
    curl localhost:8000/notes

What it shows: a lifespan whose state every request sees; `def` endpoints, which FastAPI runs in its thread pool; an
`async def` endpoint that takes an upload as it arrives. The notes are in a SQLite file, $NOTES_DB or one in the temporary
directory, because each worker is a process of its own: what one keeps in a variable the others never see.
"""

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TypedDict

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field


class State(TypedDict):
    """What startup hands to every request."""

    database: Path


class NewNote(BaseModel):
    text: str = Field(min_length=1, max_length=1000)


class Note(NewNote):
    id: int


class Upload(BaseModel):
    size: int
    sha256: str


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[State]:
    """Runs in every worker, before its first request and after its last."""
    database = Path(os.environ.get("NOTES_DB") or Path(tempfile.gettempdir(), "ladybug-notes.sqlite3"))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
    yield {"database": database}


app = FastAPI(title="Notebook", lifespan=lifespan)


@app.get("/notes")
def list_notes(request: Request) -> list[Note]:
    with closing(sqlite3.connect(request.state.database)) as connection:
        return [Note(id=number, text=text) for number, text in connection.execute("SELECT id, text FROM notes")]


@app.post("/notes", status_code=201)
def add_note(note: NewNote, request: Request) -> Note:
    with closing(sqlite3.connect(request.state.database)) as connection, connection:
        (number,) = connection.execute("INSERT INTO notes (text) VALUES (?) RETURNING id", (note.text,)).fetchone()
    return Note(id=number, text=note.text)


@app.delete("/notes/{number}", status_code=204)
def remove_note(number: int, request: Request) -> None:
    with closing(sqlite3.connect(request.state.database)) as connection, connection:
        if connection.execute("DELETE FROM notes WHERE id = ?", (number,)).rowcount == 0:
            raise HTTPException(404, "There is no such note.")


@app.put("/checksum")
async def checksum(request: Request) -> Upload:
    """However large the body is, only the piece at hand is in memory."""
    digest, size = hashlib.sha256(), 0
    async for piece in request.stream():
        digest.update(piece)
        size += len(piece)
    return Upload(size=size, sha256=digest.hexdigest())
