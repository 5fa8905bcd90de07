"""Where the servers come from: one virtual environment per Python version, with the newest peers and this checkout.

The peers are installed once (delete the directory, or --upgrade, for newer ones); Ladybug is built as a compiled
wheel from a copy of the checkout whenever its sources changed since the last time.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent

# gunicorn[fast] is gunicorn and gunicorn_h1c; asked for apart, because the extra pins a version of the C parser
# that is not to be had for every platform while gunicorn itself takes any from 0.4.1 and says "fast" to it.
PEERS = ("uvicorn[standard]", "granian", "hypercorn", "gunicorn", "gunicorn_h1c", "fastpysgi", "uvloop", "picows")
FRAMEWORKS = ("fastapi", "starlette")
# Not to be had everywhere: socketify loads a library of its own, which needs libuv.so.1.
OPTIONAL = ("socketify",)
REPORTED = (
    "uvicorn",
    "uvloop",
    "httptools",
    "granian",
    "gunicorn",
    "gunicorn_h1c",
    "hypercorn",
    "fastpysgi",
    "websockets",
    "picows",
    *OPTIONAL,
    *FRAMEWORKS,
)

TOOLS = {"wrk": "wrk", "taskset": "util-linux", "strace": "strace", "cc": "gcc", "nginx": "nginx-light"}
NEEDED = ("wrk", "taskset")  # the others only make rows disappear


class EnvironmentProblem(Exception):
    """Something is missing that the comparison needs; the message says how to get it."""


def check_tools() -> list[str]:
    """Raises EnvironmentProblem when wrk or taskset is missing; returns which optional tools are."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None and not Path("/usr/sbin", tool).exists()]
    if any(tool in NEEDED for tool in missing):
        packages = " ".join(sorted({TOOLS[tool] for tool in missing}))
        raise EnvironmentProblem(f"missing: {', '.join(missing)}. Debian, Ubuntu: apt-get install {packages}")
    return missing


def find_python(version: str) -> Path:
    """The interpreter called pythonX.Y, on PATH or among pyenv's; `version` may also be a path."""
    if "/" in version:
        return Path(version)
    if sys.version_info[:2] == tuple(int(part) for part in version.split(".")[:2]):
        return Path(sys.executable)
    on_path = shutil.which(f"python{version}")
    if on_path and subprocess.run([on_path, "-c", ""], check=False, capture_output=True).returncode == 0:
        return Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for directory in sorted(pyenv.glob(f"{version}*")):
        if (directory / "bin" / "python").exists():
            return directory / "bin" / "python"
    raise EnvironmentProblem(f"no Python {version}: not on PATH, not below {pyenv}")


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise EnvironmentProblem(f"{' '.join(map(str, command))} failed:\n{done.stdout[-4000:]}")


def peers(directory: Path, version: str, *, upgrade: bool = False) -> Path:
    """The environment directory/peers-X.Y with every peer installed."""
    environment = directory / f"peers-{version.rpartition('/')[2].removeprefix('python')}"
    python = environment / "bin" / "python"
    if not python.exists():
        say(f"making {environment}")
        run(find_python(version), "-m", "venv", environment)
    pip = (python, "-m", "pip", "install", "-q", *(("--upgrade", "pip") if upgrade else ()))
    if lacking := lacks(environment, (*PEERS, *FRAMEWORKS), upgrade=upgrade):
        say(f"installing the newest {', '.join(lacking)} into {environment}")
        run(*pip, *lacking)
    for optional in lacks(environment, OPTIONAL, upgrade=upgrade):
        say(f"installing the newest {optional} into {environment}")
        try:
            run(*pip, optional)
        except EnvironmentProblem as problem:
            say(f"left out: {problem}")
    return environment


def lacks(environment: Path, wanted: Sequence[str], *, upgrade: bool) -> list[str]:
    """Those to be installed: what is missing, or everything."""
    found = installed(environment)
    return [name for name in wanted if upgrade or name.partition("[")[0] not in found]


def compiled(source: Path, directory: Path) -> Path:
    """The program made of one C file, in `directory`; made once. Raises EnvironmentProblem."""
    program = directory / f"{source.parent.name}-{source.stem}"
    if not program.exists():
        if shutil.which("cc") is None:
            raise EnvironmentProblem(f"missing: cc, to compile {source}. Debian, Ubuntu: apt-get install gcc")
        run("cc", "-O2", "-o", program, source)
    return program


def sources() -> list[Path]:
    """The files a wheel is made of."""
    single = [ROOT / name for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE")]
    package = [path for path in sorted((ROOT / "ladybug").rglob("*")) if path.suffix in (".py", ".typed", ".pyi")]
    return [path for path in single if path.exists()] + package


def fingerprint(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def install_ladybug(environment: Path) -> None:
    """Build the checkout as a wheel and install it, unless the installed one was made of the same sources."""
    files = sources()
    stamp = environment / "ladybug-sources"
    wanted = fingerprint(files)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say(f"building ladybug for {environment.name}")
    with tempfile.TemporaryDirectory() as copy:
        # A copy without build/ and *.so: what a fresh clone would build.
        for path in files:
            target = Path(copy, path.relative_to(ROOT))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        pip = (environment / "bin" / "python", "-m", "pip")
        run(*pip, "wheel", "-q", "--no-deps", "-w", Path(copy, "dist"), copy)
        (wheel,) = Path(copy, "dist").glob("*.whl")
        run(*pip, "install", "-q", "--force-reinstall", "--no-deps", wheel)
        run(*pip, "install", "-q", f"{wheel}[standard]")
    stamp.write_text(wanted)


def versions(environment: Path) -> dict[str, str]:
    """Installed versions of what is compared."""
    found = installed(environment)
    return {name: found[name] for name in REPORTED if name in found}


def installed(environment: Path) -> dict[str, str]:
    """Every distribution in it, by its name in small letters with underscores, and its version."""
    places = [str(path) for path in environment.glob("lib/python*/site-packages")]
    return {d.metadata["Name"].lower().replace("-", "_"): d.version for d in metadata.distributions(path=places)}
