"""Plain data goes into JSON, and comes back the same."""

import json
import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from machinery.checkpoints.structure import difference, structure
from machinery.checkpoints.typed_json import Tensors, decoded, encoded
from machinery.errors import CheckpointError
from machinery.plain_data import plain


def there_and_back(value):
    tensors = Tensors()
    text = json.dumps(encoded(value, tensors), allow_nan=False)

    def tensor(name, dtype, shape):
        found = tensors.by_name[name]
        assert [str(found.dtype), list(found.shape)] == [f"torch.{dtype}", shape]
        return found

    return decoded(json.loads(text), tensor)


def same(one, other):
    return structure(one) == structure(other) and difference(one, other) == ""


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(max_size=9),
)
KEYS = st.one_of(SCALARS.filter(lambda x: x == x), st.tuples(st.integers(), st.text()))
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)


@given(PLAIN)
def test_plain_data_comes_back_the_same(value):
    back = there_and_back(value)
    assert same(back, value)
    assert repr(back) == repr(value)  # 1 is not True, nor -0.0 0.0, and keys keep their order


def test_names_that_look_like_ours():
    for value in ({"$tensor": 1}, {"a": {"$tuple": [1]}}, {"": 1}, {"$": {}}, {1: 2, "1": 3}):
        assert there_and_back(value) == value


def test_numbers_that_json_has_not():
    back = there_and_back([math.nan, math.inf, -math.inf, 1e400, 2**70, 0.1])
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf, math.inf, 2**70, 0.1]


def test_the_versions_of_modules_stay():
    state = plain(nn.BatchNorm1d(3).state_dict())
    back = there_and_back({"model": state})["model"]
    assert back._metadata == state._metadata and list(back) == list(state)


def test_tensors_have_names_that_differ():
    tensors = Tensors()
    weight = torch.ones(2, 3)
    value = {"a": {"b": weight}, "a/b": torch.zeros(2), "tied": weight, "as": weight.view(3, 2)}
    document = encoded(value, tensors)
    assert list(tensors.by_name) == ["a/b", "a/b'", "as"]
    assert document["tied"] == document["a"]["b"]


BROKEN = [
    {"$nothing": 1},
    {"$tuple": [1], "$dict": []},
    {"$tensor": ["a"]},
    {"$float": "one"},
    {"$bytes": "§"},
    {"$dict": [[1]]},
    {"$dict": [[[], 1]]},
    {"$versions": [1]},
    {"$versions": [{}, 3]},
    {"$tuple": 3},
    {"a": [{"$float": None}]},
]


@pytest.mark.parametrize("document", BROKEN)
def test_what_is_none_of_ours_is_refused(document):
    with pytest.raises(CheckpointError, match="no value of a checkpoint"):
        decoded(document, lambda *_: torch.ones(()))
