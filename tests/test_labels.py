"""Labels of users and class indices."""

import numpy as np
import pytest
from sklearn.preprocessing import LabelEncoder

from ebe_utils.labels import encode_labels


def test_texts_are_encoded_as_scikit_learn_does():
    labels = np.array(["b", "a", "c", "a"])
    known, names, codes = encode_labels(labels)
    encoder = LabelEncoder().fit(labels)
    np.testing.assert_array_equal(known, encoder.classes_)
    np.testing.assert_array_equal(codes, encoder.transform(labels))
    assert names == ("a", "b", "c")
    assert encode_labels(labels, ["c", "b", "a"])[2].tolist() == [1, 2, 0, 2]
    assert encode_labels(np.array([-1, 1, -1]))[2].tolist() == [0, 1, 0]


def test_integers_from_zero_are_indices():
    known, names, codes = encode_labels(np.array([2, 0]), ["x", "y", "z"])
    assert known.tolist() == [0, 1, 2] and names == ("x", "y", "z") and codes.tolist() == [2, 0]
    assert encode_labels(np.array([2, 0], np.uint8))[1] == ("0", "1", "2")


@pytest.mark.parametrize("labels, classes, words", [
    ([0, 3], ["a", "b"], "from 0 to 3, but there are 2 classes"), ([-1, 0], ["a", "b"], "from -1 to 0"),
    (["a", "q"], ["a", "b"], "'q' is not among the classes a, b")])
def test_labels_that_are_no_classes(labels, classes, words):
    with pytest.raises(ValueError, match=words):
        encode_labels(np.array(labels), classes)


def test_a_label_that_no_number_of_classes_reaches():
    """A name for each class below 10**9 would take all memory."""
    with pytest.raises(ValueError, match="labels run up to 1000000000 for 2 images"):
        encode_labels(np.array([0, 10**9]))
    assert len(encode_labels(np.array([0, 9_999]))[1]) == 10_000
