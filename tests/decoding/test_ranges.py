"""Which numbers a range holds, as a value and as an argparse flag."""

import argparse
import math

import numpy as np
import pytest

from decoding import ranges
from decoding.ranges import COUNT, POSITIVE, SHARE, Range

ALL = [each for each in vars(ranges).values() if isinstance(each, Range)]


@pytest.mark.parametrize("each", ALL, ids=lambda each: each.words)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "1", True, [1]])
def test_no_range_holds_what_is_no_finite_number(each, value):
    assert value not in each


@pytest.mark.parametrize("each", ALL, ids=lambda each: each.words)
def test_a_flag_reads_what_its_range_holds_and_says_what_is_valid_otherwise(each):
    for text in ("-3", "0", "0.5", "1", "7", "nan", "1e999", "9" * 400, "x", ""):
        try:
            value = each.type(text)
        except ValueError:
            value = None
        if value in each:
            assert each(text) == value
        else:
            with pytest.raises(argparse.ArgumentTypeError, match="valid are"):
                each(text)


def test_whole_numbers_are_whole_and_fit_into_a_library():
    assert 2.0 not in COUNT and np.int64(3) in COUNT and 2**32 - 1 in COUNT
    assert 2**32 not in COUNT and COUNT.advice(2**32) == "valid are numbers below 4294967296."
    assert COUNT.advice(0) == "valid are 1 and above."
    assert np.float32(0.5) in SHARE and 1 in SHARE and 2**70 in POSITIVE
