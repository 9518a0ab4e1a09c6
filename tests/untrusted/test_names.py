"""One function says which names from a file may be used."""

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.errors import DdimxError
from ddimx.untrusted.names import _PLAIN, _fault, all_inside, inside, relative

UPWARDS = ["..", "../x", "a/../../x", "a/..", "a\\..\\b", "..\\x", "a/.. /b", "...", ". ./x", " "]
ABSOLUTE = [
    "/etc/x",
    "//server/x",
    "\\x",
    "\\\\server\\share\\x",
    "C:x",
    "C:\\x",
    "c:/x",
    "\\\\?\\C:\\x",
]
EMPTY = ["", ".", "./", "a/..", "./."]
NO_TEXT = [None, 5, 1.5, True, ["a"], {"a": 1}, b"a"]
GOOD = ["a", "a/b.npz", "./a", "a//b", "..a", "a..b", "a...", ".hidden", "a b/c-d+e.npz", "é/ü.npz"]
GOOD += [
    "shapes/chair/1a04e3eab45ca15dd86060f189eb133.npz",
    "000001.png",
    "a\\b",
    "ab:c",
    "~/x",
    "-rf",
]


@pytest.mark.parametrize("name", GOOD)
def test_names_below_a_folder(name, tmp_path):
    assert relative(name, "list") == name
    assert inside(tmp_path, name, "list") == tmp_path / name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "upwards by '..'") for name in UPWARDS),
        *((name, "not relative") for name in ABSOLUTE),
        *((name, "") for name in EMPTY),
        *((name, "not a text") for name in NO_TEXT),
        ("a\0b", "NUL"),
        ("\0", "NUL"),
        ("a" * 256, "more than 255 bytes"),
        ("é" * 128 + "/a", "more than 255 bytes"),
        ("\ud800", "encoding"),
    ],
    ids=repr,
)
def test_other_names_are_refused(name, reason, tmp_path):
    for call in (lambda: relative(name, "the list"), lambda: inside(tmp_path, name, "the list")):
        with pytest.raises(
            DdimxError, match=rf"(?s)^the list: the name .*{re.escape(reason)}"
        ) as e:
            call()
        assert repr(name)[:40] in str(e.value)
        assert len(str(e.value)) < 250


def test_a_path_that_is_too_long_in_all_is_no_fault_of_ours(tmp_path):
    """Every part is short enough; whoever opens it is told by the system."""
    assert inside(tmp_path, "/".join(["a" * 200] * 40), "list").name == "a" * 200


@given(st.lists(st.sampled_from(["..", ".", "a", "b.npz", "", "C:", "a..", " ", "\\"]), max_size=6))
def test_no_name_that_is_let_through_leads_out(parts):
    """Resolved by the rules of both systems, the name stays below the folder it is joined to."""
    import ntpath
    import posixpath

    name = "/".join(parts)
    try:
        relative(name, "list")
    except DdimxError:
        return
    for rules, root in ((posixpath, "/r"), (ntpath, "D:\\r")):
        joined = rules.normpath(rules.join(root, name))
        assert joined.startswith(root + rules.sep), (name, joined)


@given(st.text(st.sampled_from("a1./\\: -+_\0\n~é"), max_size=12))
def test_the_short_cut_lets_nothing_through(name):
    if _PLAIN.fullmatch(name):
        assert _fault(name) is None


def test_links(tmp_path):
    folder, outside = tmp_path / "set", tmp_path / "elsewhere"
    (folder / "own").mkdir(parents=True)
    outside.mkdir()
    (outside / "precious").write_text("keep")
    (folder / "out").symlink_to(outside)
    (folder / "file").symlink_to(outside / "precious")
    (folder / "nowhere").symlink_to(tmp_path / "absent")
    (folder / "up").symlink_to("..")
    (folder / "within").symlink_to("own")
    (folder / "round").symlink_to("round")
    (folder / "own" / "deep").symlink_to(outside)
    for name in ("out/precious", "out", "file", "nowhere", "up/elsewhere", "own/deep/x"):
        with pytest.raises(DdimxError, match=rf"^journal: the name '{name}' .* by a symbolic link"):
            inside(folder, name, "journal")
    for name in ("out/new/folder", "within/deep/x"):
        with pytest.raises(DdimxError, match="by a symbolic link"):
            inside(folder, name, "journal")
    assert inside(folder, "within/x", "journal") == folder / "within" / "x"
    assert inside(folder, "round", "journal") == folder / "round"  # leads nowhere, so not out
    (tmp_path / "by-link").symlink_to(folder)
    assert inside(tmp_path / "by-link", "own/x", "journal") == tmp_path / "by-link" / "own" / "x"


def test_a_folder_whose_name_begins_like_ours_is_another(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set-2").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path / "set-2")
    with pytest.raises(DdimxError, match="symbolic link"):
        inside(tmp_path / "set", "link/x", "list")


def test_one_wrong_name_refuses_all(tmp_path):
    with pytest.raises(DdimxError, match="'/b'"):
        all_inside(tmp_path, ["a", "/b", "c"], "list")
    assert all_inside(tmp_path, ["a", "b/c"], "list") == [tmp_path / "a", tmp_path / "b" / "c"]


def test_a_folder_that_may_not_be_looked_into(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(
        os.path, "realpath", lambda path: refuse(path) if "x" in str(path)[-3:] else str(path)
    )
    with pytest.raises(DdimxError, match=r"cannot be looked up .*Permission denied"):
        inside(tmp_path, "x/y", "list")
