"""The FastAPI application: one `async def` and one `def` endpoint that answer the same JSON."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/json")
async def json() -> dict[str, str]:
    return {"message": "Hello, World!"}


@app.get("/sync")
def sync() -> dict[str, str]:
    return {"message": "Hello, World!"}
