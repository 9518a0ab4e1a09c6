"""Packages that an extra installs: what is said where one is missing or broken."""

import sys

import pytest

from ddimx.errors import MissingPackage, UsageError, optional_module


def test_a_module_that_is_there_is_imported():
    import json.decoder

    assert optional_module("json.decoder", "texts", "3d") is json.decoder


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "json", None)  # though its modules are imported
    with pytest.raises(MissingPackage) as caught:
        optional_module("json.decoder", "texts", "3d")
    expected = 'json, which texts need, is not installed; run pip install "ddimx[3d]"'
    assert str(caught.value) == expected
    assert isinstance(caught.value, UsageError)


def test_a_package_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_here.py").write_text("import absent_elsewhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPackage, match=r"cannot be imported \(No module named 'absent_else"):
        optional_module("broken_here", "texts", "3d")
