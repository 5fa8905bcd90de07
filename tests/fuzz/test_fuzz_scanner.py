"""Target: the head scanner.

Invariant: for any bytes that hold the end of a head, Scanner.scan() either is in doubt, or returns exactly the position
behind that end and a RequestHead equal in every attribute to the one that parse_head() makes of the same bytes, which it
accepts. Reading nothing outside the data is part of it: compiled code raises IndexError for that, or worse.
"""

from __future__ import annotations

import random

from ladybug.protocol.http1 import SHORTEST_HEAD
from ladybug.protocol.limits import Limits
from tests.fuzz.fuzzing import fuzz
from tests.protocol.heads import nearly_plain_head, plain_head
from tests.protocol.test_scanner import DEFAULTS, check_agreement, compiled_only


def target(dice: random.Random) -> None:
    before, after = dice.randbytes(dice.choice((0, 0, 3))), dice.randbytes(dice.choice((0, 0, 1, 20)))
    head = nearly_plain_head(dice)
    if len(head) >= SHORTEST_HEAD:
        limits = DEFAULTS
        if dice.random() < 0.2:
            limits = Limits(
                request_line=dice.randrange(15, 60), fields=dice.randrange(1, 8), fields_size=dice.randrange(200)
            )
        check_agreement(before + head + after, len(before), limits)
    assert check_agreement(before + plain_head(dice) + after, len(before)), "a plain head needs no second opinion"


@compiled_only
def test_scanner() -> None:
    fuzz(target)
