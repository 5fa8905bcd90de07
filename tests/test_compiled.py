"""Which form of the package is under test: compiled or pure, all of it or none, and as the Makefile means it.

LADYBUG_TEST_FORM says what is meant: "compiled" or "pure". Without it only consistency is checked.
"""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import ladybug

ROOT = Path(__file__).parents[1]
COMPILED: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ladybug"]["compiled"]


def module_of(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def is_compiled(module: str) -> bool:
    """Whether the module was loaded from an extension module."""
    file = importlib.import_module(module).__file__
    assert file is not None
    return file.endswith(tuple(EXTENSION_SUFFIXES))


MEANT = {"compiled": True, "pure": False, "": is_compiled(module_of(COMPILED[0]))}


@pytest.mark.parametrize("path", COMPILED)
def test_every_listed_module_has_the_form_that_is_meant(path: str) -> None:
    """A forgotten extension module would win over edited source; a missing one would be slow and nothing else."""
    assert is_compiled(module_of(path)) is MEANT[os.environ.get("LADYBUG_TEST_FORM", "")]


@pytest.mark.parametrize("path", COMPILED)
def test_every_listed_module_exists(path: str) -> None:
    assert (ROOT / path).is_file()


def test_no_other_module_is_compiled() -> None:
    package = Path(str(ladybug.__file__)).parent
    compiled = {
        path.relative_to(package.parent).as_posix().partition(".")[0]
        for path in package.rglob("*")
        if path.name.endswith(tuple(EXTENSION_SUFFIXES))
    }
    assert compiled <= {path.removesuffix(".py") for path in COMPILED}


def test_the_source_tree_is_not_what_is_tested_compiled() -> None:
    """Compiled, the package is installed; its source lies beside it and must be the tree's, or the tests test another."""
    package = Path(str(ladybug.__file__)).parent
    for path in sorted((ROOT / "ladybug").rglob("*.py")):
        installed = package / path.relative_to(ROOT / "ladybug")
        assert installed.read_bytes() == path.read_bytes(), f"{installed} is not {path}: install again"


def test_the_version_tells_the_form() -> None:
    from ladybug.about import version_line

    yes = is_compiled(module_of(COMPILED[0]))
    assert f"compiled: {'yes' if yes else 'no'}" in version_line()
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in version_line()
