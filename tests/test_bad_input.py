"""What a user can pass by mistake to the public functions: which error, and that it says what is wrong."""

import numpy as np
import pytest

from ebe_utils.checks import did_you_mean, integer, real
from ebe_utils.upkeep.trial_inputs import INPUTS, refused


@pytest.mark.parametrize("row", INPUTS, ids=[call for call, _, _ in INPUTS])
def test_mistakes_are_named(row):
    assert refused(row) == ""


def test_suggestions_are_made_for_near_words_only():
    assert did_you_mean("cosin", ["cosine", "euclidean"]) == " Did you mean 'cosine'?"
    assert did_you_mean("xyz", ["cosine", "euclidean"]) == ""


def test_integers():
    assert integer("k", np.int64(3), 1, 5) == 3 and type(integer("k", np.int64(3))) is int
    assert integer("k", 1, 1, 1) == 1
    for value, error in ((0, ValueError), (6, ValueError), (2.0, TypeError), (True, TypeError), ("2", TypeError)):
        with pytest.raises(error, match="pass an integer from 1 to 5"):
            integer("k", value, 1, 5)
    with pytest.raises(TypeError, match=r"pass an integer\.$"):
        integer("k", None)


def test_real_numbers():
    assert real("rate", np.float32(0.5)) == 0.5 and real("rate", 2) == 2.0
    for value, error in ((0, ValueError), (-1.0, ValueError), (float("nan"), ValueError), (float("inf"), ValueError),
                         (True, TypeError), ("1", TypeError), (1j, TypeError)):
        with pytest.raises(error, match="greater than 0"):
            real("rate", value)
