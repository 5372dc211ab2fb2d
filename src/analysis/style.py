"""How series look: one table of methods, so that a method looks the same in every figure, in colour and without.

Colours are those of Okabe and Ito, which colour-blind eyes tell apart; marker, line and hatch say the same again.
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple
from zlib import crc32

from matplotlib.colors import to_rgb

BLACK, GREY = "#000000", "#737373"
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILION, VIOLET, OLIVE = "#56B4E9", "#D55E00", "#6A3D9A", "#7A7A00"

SOLID, DASHED, DOTTED, CHAINED = "-", "--", ":", "-."
ALONE = ""  # a single point
LONG, PAIRED, SPARSE = (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3))


class Look(NamedTuple):
    """Of a series: its colour, the marker and line of its points, the hatch of its bars."""

    colour: str
    marker: str
    line: str | tuple
    hatch: str

    @property
    def in_grey(self) -> tuple:
        """What is left of it without colour."""
        return self.marker, self.line, self.hatch


# Methods that stand in one figure differ in each of the four.
LOOKS = {
    "full model": Look(BLACK, "*", ALONE, "O"),
    "static": Look(GREY, "X", DOTTED, "++"),
    "oracle": Look(GREY, "d", LONG, "--"),
    "softmax": Look(BLUE, "o", SOLID, ""),
    "softmax + fixed": Look(ORANGE, "v", DASHED, "//"),
    "softmax + decaying": Look(GREEN, "<", CHAINED, "\\\\"),
    "softmax + adaptive": Look(PINK, ">", DOTTED, "xx"),
    "max_prob": Look(SKY, "h", PAIRED, "||"),
    "entropy": Look(OLIVE, "8", SPARSE, "OO"),
    "state": Look(PINK, "D", CHAINED, "oo"),
    "meta": Look(VERMILION, "P", LONG, "**"),
    "weighted": Look(ORANGE, "s", DASHED, "///"),
    "weighted (text)": Look(PINK, "h", CHAINED, "\\\\\\"),
    "contrastive": Look(VIOLET, "p", PAIRED, "ooo"),
    "JSD": Look(GREEN, "^", PAIRED, "..."),
    "JSD (text)": Look(SKY, "D", SPARSE, "xxx"),
    "JSD + fixed": Look(ORANGE, "v", DASHED, "////"),
    "JSD + decaying": Look(VIOLET, "<", CHAINED, "||||"),
    "JSD + adaptive": Look(PINK, ">", DOTTED, "xxxx"),
    "JSD + adaptive (capped)": Look(VERMILION, "P", SPARSE, "OOO"),
    "JSD, token from s": Look(BLUE, "s", SOLID, "ooo"),
    "JSD + fixed, alpha 0": Look(VERMILION, "p", CHAINED, "***"),
    "FREE": Look(ORANGE, "s", DASHED, "|||"),
    "FREE + adaptive threshold": Look(VERMILION, "p", CHAINED, "/."),
    "FREE + rollback": Look(PINK, "v", LONG, "\\."),
    "lossless": Look(SKY, "H", SPARSE, "+."),
}

# Their numbers have no common divisor, so a look returns only after all combinations.
COLOURS = (BLUE, ORANGE, GREEN, PINK, VERMILION, SKY, VIOLET, OLIVE)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "d")
LINES = (SOLID, DASHED, CHAINED, DOTTED, LONG, PAIRED)
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")
COMBINATIONS = len(MARKERS) * len(LINES) * len(HATCHES)

_given: dict[str, Look] = {}


def nth(index: int) -> Look:
    """The look of a figure's series that is no method, by its place."""
    lists = (COLOURS, MARKERS, LINES, HATCHES)
    return Look(*(choices[index % len(choices)] for choices in lists))


def look(method: str) -> Look:
    """The look of a method. One that the table has not takes the free look its name points at, or the next after it."""
    if method in LOOKS:
        return LOOKS[method]
    if method not in _given:
        taken = {each.in_grey for each in (*LOOKS.values(), *_given.values())}
        start = crc32(method.encode())
        free = (each for i in range(COMBINATIONS) if (each := nth(start + i)).in_grey not in taken)
        _given[method] = next(islice(free, 1))
    return _given[method]


def points(of: Look) -> dict:
    """Keyword arguments of a line: markers are hollow, so that one that lies behind another is seen."""
    star = of.marker == "*"
    return {
        "color": of.colour,
        "marker": of.marker,
        "markersize": 11 if star else 6,
        "markerfacecolor": of.colour if star else "none",
        "markeredgewidth": 1.2,
        "linestyle": of.line,
        "linewidth": 1.3,
    }


def bars(of: Look) -> dict:
    """Keyword arguments of bars: pale, so that the hatch is seen."""
    pale = tuple(0.45 + 0.55 * part for part in to_rgb(of.colour))
    return {"facecolor": pale, "edgecolor": "black", "hatch": of.hatch, "linewidth": 0.6}
