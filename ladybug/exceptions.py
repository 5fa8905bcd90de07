"""The errors a user of the command line or of `ladybug.run` can meet before the first request.

    ConfigError     a setting is wrong             the command line prints it and exits 2
    StartupError    the server cannot start        printed once, exit code 3

Rule: the text of both is complete. It names the cause and what to do, and is shown without a traceback of ours.
Errors of a running server (a client's bad request, an application's exception) live with the protocol and ASGI rooms.
"""

# Exit codes. 3 is the code by which process managers know, as with uvicorn, that a restart will not heal it.
USAGE_FAILURE = 2
STARTUP_FAILURE = 3


class ConfigError(ValueError):
    """A setting has an unknown name, or a value it cannot take."""


class StartupError(Exception):
    """The server or a worker cannot start: import error, failed lifespan, address in use."""
