"""A guestbook with a form: Quart on Ladybug.

    ladybug --app-dir examples quart_app:app
    curl -d name=Ada localhost:8000/ && curl localhost:8000/

What it shows: Quart's startup and shutdown run as lifespan events; forms and templates work as they do anywhere. The book
is in the memory of one process, so this one wants one worker, which is the default.
"""

from quart import Quart, redirect, render_template_string, request
from werkzeug.wrappers import Response

PAGE = """<!doctype html>
<title>Guestbook</title>
<form method="post"><input name="name" placeholder="Your name"> <button>Sign</button></form>
<ul>{% for name in names %}<li>{{ name }}</li>{% endfor %}</ul>
"""

app = Quart(__name__)
names: list[str] = []


@app.before_serving
async def open_book() -> None:
    names.append("the server, at startup")


@app.get("/")
async def show() -> str:
    return await render_template_string(PAGE, names=names)


@app.post("/")
async def sign() -> Response:
    name = (await request.form).get("name", "").strip()
    if name:
        names.append(name[:100])
    return redirect("/")
