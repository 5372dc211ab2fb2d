"""Looks: methods that stand together differ without colour too, and one that is new gets a look of its own."""

import subprocess
import sys
from itertools import combinations

import pytest

from analysis import policy_figures, speed_figures
from analysis.style import COMBINATIONS, GREY, LOOKS, look, nth

QUICKSTART = ("static", "softmax", "state", "meta", "JSD", "FREE", "lossless")
POLICIES = ("MEASURES", "JSD_PRUNING", "PRUNING", "COMBINED", "FUTURE", "FORMS")
TOGETHER = {name: (*getattr(policy_figures, name), "oracle") for name in POLICIES}
TOGETHER["FORMS"] += ("static",)
TOGETHER |= {"TRADED": speed_figures.TRADED, "QUICKSTART": QUICKSTART}


@pytest.mark.parametrize("methods", TOGETHER.values(), ids=TOGETHER)
def test_methods_of_one_figure_differ_in_colour_marker_line_and_hatch(methods):
    for one, other in combinations((*methods, "full model"), 2):
        alike = [a for a, b in zip(look(one), look(other), strict=True) if a == b]
        assert set(alike) <= {GREY}, f"{one} and {other} share {alike}; only what is no measure may share its grey"


def test_no_two_looks_are_the_same_in_grey():
    greys = [each.in_grey for each in LOOKS.values()]
    assert len(set(greys)) == len(greys)
    assert len({nth(i).in_grey for i in range(COMBINATIONS)}) == COMBINATIONS


def test_an_unknown_method_gets_a_free_look_that_stays():
    names = [f"margin {i}" for i in range(40)]
    found = {name: look(name) for name in names}
    assert found == {name: look(name) for name in reversed(names)}
    greys = {each.in_grey for each in (*found.values(), *LOOKS.values())}
    assert len(greys) == len(names) + len(LOOKS)


def test_an_unknown_method_looks_the_same_in_every_process():
    run = [sys.executable, "-c", "from analysis.style import look; print(look('new'))"]
    assert len({subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in range(2)}) == 1
