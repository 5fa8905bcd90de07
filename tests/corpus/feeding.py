"""Ways of cutting a request into the pieces that arrive one after the other; what comes out must not depend on them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

Feeding = Callable[[bytes], list[bytes]]


def whole(raw: bytes) -> list[bytes]:
    """All in one piece."""
    return [raw]


def byte_by_byte(raw: bytes) -> list[bytes]:
    """The smallest pieces there are."""
    return [raw[at : at + 1] for at in range(len(raw))]


def at_random(raw: bytes) -> list[bytes]:
    """A few cuts at places that look random but are the same for the same bytes, so that a failure comes back."""
    dice = random.Random(raw)
    return cut(raw, [dice.randrange(len(raw)) for _ in range(dice.randint(1, 8))])


def cut(raw: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut before each of `places`, in whatever order they come; no piece is empty."""
    edges = sorted({0, len(raw), *(place for place in places if 0 < place < len(raw))})
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


def cuts(raw: bytes) -> st.SearchStrategy[list[bytes]]:
    """For hypothesis: any way of cutting, shrinking towards no cut at all."""
    return st.lists(st.integers(1, max(1, len(raw) - 1)), max_size=12, unique=True).map(lambda places: cut(raw, places))


FEEDINGS: tuple[Feeding, ...] = (whole, byte_by_byte, at_random)

# Beyond this many bytes a request is large to be large, and fed whole: no rule in it depends on where it is cut.
LARGE = 12_000


def feedings(raw: bytes) -> tuple[Feeding, ...]:
    """The feedings worth trying for these bytes."""
    return (whole,) if len(raw) > LARGE else FEEDINGS
