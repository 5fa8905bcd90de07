"""The file of --env-file: read once when the settings are made, and once more by every worker.

What is set already wins over the file, so whoever reads it again has to know what came from it the first time.
"""

import os
from collections.abc import Collection

from ladybug.exceptions import ConfigError


def load_env_file(path: str) -> frozenset[str]:
    """Put what a .env file sets into os.environ, where it is not set yet; the names of what was. Raises ConfigError."""
    from pathlib import Path

    try:
        from dotenv import load_dotenv
    except ImportError:
        raise ConfigError(
            'env_file: reading it needs python-dotenv: pip install python-dotenv, or pip install "ladybug-asgi[standard]"'
        ) from None
    before = frozenset(os.environ)
    try:
        # Opened here: load_dotenv says nothing of a file that is not there.
        with Path(path).open(encoding="utf-8") as stream:
            load_dotenv(stream=stream)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"env_file: cannot read {path}: {error}") from None
    return frozenset(os.environ) - before


def reload_env_file(path: str, names: Collection[str]) -> None:
    """In a worker, before it imports the application: the file may have changed since the master read it.

    What the file set then (`names`), it may change or take away now; what was set before it still wins. Raises ConfigError.
    """
    for name in names:
        os.environ.pop(name, None)
    load_env_file(path)
