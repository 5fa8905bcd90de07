"""Target: the receiving core, Http1.

Invariant: for any bytes in any pieces
- nothing raises, and after an error there is nothing more;
- the requests, their contents and whether there was an error do not depend on the pieces;
- what is kept is bounded by the limits and the piece received last.
"""

from __future__ import annotations

import random

from ladybug.protocol.limits import Limits
from tests.corpus.accepted import ACCEPTED
from tests.corpus.refused import REFUSED
from tests.fuzz.fuzzing import cut_up, fuzz, mutate
from tests.protocol.events import Outcome, Player, play
from tests.protocol.heads import nearly_plain_head

_CORPUS = [case.raw for case in ACCEPTED] + [case.raw for case in REFUSED]
SEEDS = [raw for raw in _CORPUS if len(raw) < 1000]
DICTIONARY = (
    *(
        b"\r\n",
        b"\r\n\r\n",
        b"\r",
        b"\n",
        b" ",
        b"\t",
        b":",
        b"\x00",
        b"\x7f",
        b"\xff",
        b"%",
        b"?",
        b"HTTP/1.1",
        b"HTTP/1.0",
    ),
    *(
        b"Host: a\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"0\r\n\r\n",
    ),
    *(
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /x HTTP/1.1\r\n",
        b"http://a/",
        b"*",
        b"3\r\nabc\r\n",
        b"Expect: 100-continue\r\n",
    ),
)
LIMITS = Limits(request_line=60, fields=6, fields_size=200, body=50)


def verdict(outcome: Outcome) -> tuple[object, bool]:
    return outcome.messages, outcome.status != 0


def target(dice: random.Random) -> None:
    raw = dice.choice(SEEDS) if dice.random() < 0.7 else nearly_plain_head(dice)
    if dice.random() < 0.3:
        raw += dice.choice(SEEDS)
    raw = mutate(dice, raw, DICTIONARY)
    limits = dice.choice((LIMITS, Limits()))
    player = Player(limits)
    for piece in cut_up(dice, raw):
        player.feed(piece)
        kept = len(player.core.buffer) - player.core.position
        assert kept <= limits.request_line + limits.fields_size + len(piece) + 8, raw
    assert verdict(player.outcome) == verdict(play([raw], limits)), raw
    player.feed(b"GET / HTTP/1.1\r\n")


def test_http1() -> None:
    fuzz(target)
