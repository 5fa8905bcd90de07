"""Builds the package: the rooms listed in pyproject.toml under [tool.ladybug] are compiled to C by mypyc.

LADYBUG_PURE=1, or a machine without a C compiler and Python headers, gives the same source as a pure-Python package,
and says so. `ladybug --version` tells which of the two is installed.
"""

import os
import sys
import tempfile
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.dist import Distribution
from setuptools.errors import CompileError, PlatformError

ROOT = Path(__file__).parent


def compiler_works() -> bool:
    """Compile one line that includes Python.h with the compiler setuptools would use."""
    from setuptools.command.build_ext import build_ext

    command = build_ext(Distribution())
    command.finalize_options()
    try:
        from setuptools._distutils.ccompiler import new_compiler  # the compiler behind build_ext; no public name
        from setuptools._distutils.sysconfig import customize_compiler

        compiler = new_compiler()
        customize_compiler(compiler)
        with tempfile.TemporaryDirectory() as directory:
            probe = Path(directory, "probe.c")
            probe.write_text("#include <Python.h>\n")
            compiler.compile([str(probe)], output_dir=directory, include_dirs=command.include_dirs)
    except (CompileError, PlatformError, OSError) as error:
        print(f"ladybug: no working C compiler ({error})", file=sys.stderr)  # noqa: T201
        return False
    return True


def extension_modules() -> list[object]:
    if os.environ.get("LADYBUG_PURE", "") not in ("", "0"):
        print("ladybug: LADYBUG_PURE is set: installing as pure Python, several times slower", file=sys.stderr)  # noqa: T201
        return []
    if not compiler_works():
        print("ladybug: installing as pure Python, several times slower", file=sys.stderr)  # noqa: T201
        return []
    from mypyc.build import mypycify

    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    compiled: list[str] = table["tool"]["ladybug"]["compiled"]
    # Only what is compiled must pass here; the rest of the package and its libraries are `make check`'s business.
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--follow-imports=silent", *compiled]
    return list(
        mypycify(
            options, opt_level=os.environ.get("LADYBUG_OPT_LEVEL", "3"), group_name="ladybug", strict_dunder_typing=True
        )
    )


setup(ext_modules=extension_modules())
