"""Runs a fuzz target with fresh dice until time is over. A failure names the seed that brings it back.

From the environment:
- LADYBUG_FUZZ_SECONDS  for each target (default: 1)
- LADYBUG_FUZZ_SEED     only this throw of the dice, again
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

Target = Callable[[random.Random], None]


def fuzz(target: Target) -> None:
    """Throw the dice for `target`, again and again."""
    again = os.environ.get("LADYBUG_FUZZ_SEED")
    if again is not None:
        target(random.Random(int(again)))
        return
    end = time.monotonic() + float(os.environ.get("LADYBUG_FUZZ_SECONDS", "1"))
    seed = int.from_bytes(os.urandom(6), "big")
    while True:
        try:
            target(random.Random(seed))
        except BaseException as error:
            error.add_note(f"LADYBUG_FUZZ_SEED={seed} brings this back")
            raise
        if time.monotonic() >= end:
            return
        seed += 1


def cut_up(dice: random.Random, raw: bytes) -> list[bytes]:
    """`raw` in pieces of random sizes, none empty."""
    pieces = []
    while raw:
        size = dice.choice((1, 1, 2, 5, 20, 100, len(raw)))
        pieces.append(raw[:size])
        raw = raw[size:]
    return pieces


def mutate(dice: random.Random, raw: bytes, dictionary: tuple[bytes, ...]) -> bytes:
    """`raw` with some bytes flipped, dropped, doubled, or words of the dictionary written into it."""
    data = bytearray(raw)
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3, 8))):
        place = dice.randrange(len(data) + 1)
        way = dice.randrange(6)
        if way == 0 and place < len(data):
            data[place] ^= 1 << dice.randrange(8)
        elif way == 1:
            data[place:place] = dice.randbytes(dice.randrange(1, 4))
        elif way == 2:
            del data[place : place + dice.choice((1, 1, 2, 10))]
        elif way == 3:
            data[place:place] = data[place : place + dice.randrange(1, 30)]
        else:
            data[place : place + dice.choice((0, 0, 1, 4))] = dice.choice(dictionary)
    return bytes(data)
