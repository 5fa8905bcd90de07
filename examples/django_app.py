"""A whole Django project in one file: settings, views, addresses, ASGI application.

    SECRET_KEY=anything ladybug --app-dir examples --workers auto django_app:app
    curl -c /tmp/jar -b /tmp/jar localhost:8000/       twice: it remembers you

What it shows: an ordinary Django application needs nothing for Ladybug but its `get_asgi_application()`; `async def` and
`def` views beside each other. Django has no lifespan, which Ladybug finds out by asking (--lifespan auto).
"""

import asyncio
import os
import secrets

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

settings.configure(
    # Cookies are signed with it. One made here is made anew in each worker: several workers must be given theirs.
    SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_urlsafe(50),
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    USE_TZ=True,
)


def visits(request: HttpRequest) -> HttpResponse:
    """A `def` view: Django runs it in a thread."""
    count = request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(f"This is visit {count} from {request.META['REMOTE_ADDR']}.\n", content_type="text/plain")


async def slow(_: HttpRequest) -> JsonResponse:
    """An `async def` view: while it waits, its worker serves others."""
    await asyncio.sleep(0.1)
    return JsonResponse({"waited": 0.1})


urlpatterns = [path("", visits), path("slow", slow)]

app = get_asgi_application()
