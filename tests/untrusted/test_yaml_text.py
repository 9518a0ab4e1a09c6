"""YAML from outside: aliases, nesting, tags, numbers and keys."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ddimx.untrusted import limits
from ddimx.untrusted.yaml_text import parse_yaml

LAUGHS = "\n".join(
    ["a0: &a0 [x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    + ["data: *a9"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text("ab c:[]{}#&*!'\"\n1"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc:- "), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_yaml_is_read_as_pyyaml_reads_it(value):
    text = yaml.safe_dump(value)
    assert parse_yaml(text) == yaml.safe_load(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "more than 50000 values, aliases included"),
        ("[" * 100_000, "deeper than 64"),
        ("- " * 100_000, "deeper than 64"),
        ("\n".join(" " * i + "a:" for i in range(70)), "deeper than 64"),
        ("a: &a [*a]", "contains itself"),
        ("a: &a {b: *a}", "contains itself"),
        ("a: *b", "undefined alias"),
        ("a: !!python/object/apply:os.system [true]", "a tag"),
        ("a: !!binary aGk=", "a tag"),
        ("a: !x 1", "a tag"),
        ("a: " + "1" * 5000, "more than 40 characters"),
        ("a: 1." + "1" * 5000, "more than 40 characters"),
        ("a: " + "1:" * 3000 + "1", "more than 40 characters"),
        ("a: 0x1ffffffffffffffff", "more than 64 bits"),
        ("a: 0b_", "invalid literal"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("a: 1\na: 2", "a key given twice"),
        ("b: {a: 1, a: 2}", "a key given twice"),
        ("? [a]\n: 1", "unhashable"),
        ("a: 1\n---\nb: 1", "single document"),
        ("x" * (limits.YAML_BYTES + 1), "longer than 256K"),
        ("a: \0", "special characters"),
    ],
)
def test_what_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_yaml(text)


def test_aliases_and_merged_keys_are_read():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a\nd: {<<: [*a, {z: 1}]}\n"
    assert parse_yaml(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"x": 1, "y": 2},
        "d": {"x": 1, "y": 2, "z": 1},
    }
    # One that is merged before it is built itself, and overrides what it merges.
    text = "a: &a {x: 1}\nb:\n  c: &c {<<: *a, x: 2}\nd: {<<: *c, x: 3}\n"
    assert parse_yaml(text)["d"] == {"x": 3}
