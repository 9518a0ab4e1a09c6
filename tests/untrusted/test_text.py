"""JSON from outside: what is refused before it is built, and what is read as it stands."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.untrusted import limits
from ddimx.untrusted.text import parse_json, read_json, read_object, shortened, shown

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_is_json_is_read_as_python_reads_it(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        expected = json.loads(text.decode())
    except UnicodeDecodeError:  # a lone surrogate has no UTF-8
        with pytest.raises(ValueError):  # noqa: PT011 - as Python's
            parse_json(text)
        return
    assert parse_json(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 65 + "]" * 65, "deeper than 64"),
        ("[" * 100_000, "deeper than 64"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "deeper than 64"),
        ("[" + "9" * 5000 + "]", "more than 40 characters"),
        ("[0." + "9" * 5000 + "]", "more than 40 characters"),
        (str(2**64), "more than 64 bits"),
        (str(-(2**63) - 1), "more than 64 bits"),
        ("1e999", "too large a number"),
        ("[NaN]", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' stands there twice"),
        ("", "Expecting value"),
        ("[1", "Expecting"),
        (b"\xff", "invalid start byte"),
    ],
)
def test_what_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_what_python_writes_of_a_training_is_read_where_that_is_asked():
    text = json.dumps({"norm": [float("inf"), float("nan"), 1.5]})
    values = parse_json(text, finite=False)["norm"]
    assert values[0] == float("inf")
    assert values[1] != values[1]
    with pytest.raises(ValueError, match="is not JSON"):
        parse_json(text)


def test_brackets_and_digits_in_strings_count_for_nothing():
    text = "[" * 100 + "9" * 100 + '\\"' + "\\" + "," * 100
    assert parse_json(json.dumps({text: text})) == {text: text}
    assert parse_json("[" * 64 + "]" * 64) is not None
    assert parse_json(str(2**64 - 1)) == 2**64 - 1


def test_memory_is_bounded_by_length_and_by_values(monkeypatch):
    monkeypatch.setenv(limits.VARIABLE, "8K")  # 1,024 bytes of text, 113 values
    assert parse_json('"' + "x" * 1022 + '"') == "x" * 1022
    with pytest.raises(ValueError, match="--limit-memory 8200 allows it"):
        parse_json('"' + "x" * 1023 + '"')
    assert len(parse_json("[" + "1," * 110 + "1]")) == 111
    for many in ("[" + "1," * 120 + "1]", '["' + '","' * 120 + '"]', "[" + "[]," * 60 + "1]"):
        with pytest.raises(ValueError, match="values; --limit-memory"):
            parse_json(many)


def test_files(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1]}')
    assert read_json(path) == read_object(path) == {"a": [1]}
    path.write_text("[1]")
    with pytest.raises(ValueError, match="braces"):
        read_object(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent")
    monkeypatch.setenv(limits.VARIABLE, "800")
    path.write_text(" " * 101)
    with pytest.raises(ValueError, match="longer than 100"):
        read_json(path)


def test_quoting_is_short_whatever_the_value():
    nested: list = []
    for _ in range(60):
        nested = [nested] * 9  # 9^60 values, if they were followed
    wide = dict.fromkeys(range(10000), "x" * 10000)
    for value in (nested, wide, "x" * 10_000, 9**4000, b"x" * 10_000, [nested, wide]):
        assert len(shown(value)) <= limits.SHOWN + 3
    assert shown([1, "a", None]) == "[1, 'a', None]"
    assert shortened("abcdef", 3) == "abc..."
    assert shortened("abc", 3) == "abc"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("800M", 800 << 20),
        ("4g", 4 << 30),
        ("2 GiB", 2 << 30),
        ("3kb", 3072),
        ("1T", 1 << 40),
    ],
)
def test_sizes(text, size, monkeypatch):
    assert limits.size(text) == size
    monkeypatch.delenv(limits.VARIABLE, raising=False)
    assert limits.memory() == limits.MEMORY
    monkeypatch.setenv(limits.VARIABLE, text)
    assert limits.memory() == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5G", "G", "1X", "9" * 30, "1 1", "²"])
def test_what_is_no_size(text):
    from ddimx.errors import UsageError

    with pytest.raises(UsageError, match="write a size such as 800M"):
        limits.raise_memory(text)


@given(st.integers(1, 2**60))
def test_the_size_that_an_error_names_is_enough(count):
    named = limits.size(limits.readable(count))
    assert named >= count
    assert named <= 1.11 * count  # rounded up to two digits or more


def test_a_file_may_become_more_the_larger_it_is(monkeypatch):
    monkeypatch.setenv(limits.VARIABLE, "100")
    assert limits.allowed(0) == limits.allowed(12) == 100
    assert limits.allowed(13) == 104
    assert limits.allowed(0, copies=3) == 33
    limits.refused("it", 100, 0)
    with pytest.raises(ValueError, match=r"it unpacks to 101, more than the 100 .* 101 allows it"):
        limits.refused("it", 101, 0)


def test_struct_sizes_of_values():
    """An integer, a float, an empty list in a list: what VALUE_COST stands for."""
    import sys

    pointer = struct.calcsize("P")
    for value in (2**62, 1.5, []):
        assert sys.getsizeof(value) + pointer <= limits.VALUE_COST
