"""The record of what compiling costs and gains: what it keeps, what it expects, and whom it trusts.

Compiled code lies beside it, in folders that nobody else may write to.
"""

import dataclasses
import os
import stat

import pytest

from ddimx.sampling import compiled, costs


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test's own, and no compiled code of the user's."""
    monkeypatch.setenv("DDIMX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(compiled.CACHE, raising=False)
    return tmp_path / "cache" / "engines"


ENTRY = costs.Entry("a machine", 10, cold=20.0, warm=None, plain=2.0, compiled=1.0)


def test_the_record_remembers_and_forgets_the_oldest(cache):
    for i in range(costs.MOST_ENTRIES + 3):
        costs.remember(f"key {i}", ENTRY)
    assert len(costs.read()) == costs.MOST_ENTRIES
    costs.remember("key 9", costs.Entry("a machine", 10, warm=3.0))
    assert costs.read()["key 9"] == dataclasses.replace(ENTRY, warm=3.0)
    assert (cache / costs.NAME).stat().st_size < costs.MOST_BYTES


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{" * 1000,
        '{"schema": 2, "entries": {}}',
        '{"schema": 1, "entries": [1]}',
        '{"schema": 1, "entries": {"k": {"kind": "a", "layers": 1, "cold": -1}}}',
        '{"schema": 1, "entries": {"k": {"kind": "a", "layers": 1, "cold": true}}}',
        '{"schema": 1, "entries": {"k": {"kind": "a", "layers": 0}}}',
        '{"schema": 1, "entries": {"k": {"kind": "a", "layers": 1, "more": 1}}}',
        '{"schema": 1, "entries": {}, "x": "' + "x" * costs.MOST_BYTES + '"}',
    ],
)
def test_a_record_that_is_damaged_is_begun_anew(cache, text):
    cache.mkdir(parents=True, mode=0o700)
    (cache / costs.NAME).write_text(text)
    assert costs.read() == {}
    costs.remember("key", ENTRY)
    assert costs.read() == {"key": ENTRY}


def test_estimates_go_by_what_was_measured_here(cache):
    def estimate(entries, key="k"):
        expected = costs.estimate(entries, key, "a machine", "cpu", "cpu bf16", 100)
        return expected.seconds, expected.ratio

    prior = costs.COLD_PER_LAYER["cpu"] * 100
    assert estimate({}) == (prior, costs.RATIO["cpu bf16"])
    assert estimate({"x": dataclasses.replace(ENTRY, kind="another")})[0] == prior
    assert estimate({"x": ENTRY}) == (200.0, 0.5)  # 2 s for each layer
    costs.compiled_code().mkdir(parents=True)
    assert estimate({"k": ENTRY}) == (20 * costs.WARM_SHARE, 0.5)
    assert estimate({"k": dataclasses.replace(ENTRY, warm=4.0)}) == (4.0, 0.5)
    only = dataclasses.replace(ENTRY, plain=None)  # --engine compile times no plain call
    assert estimate({"k": only})[1] == costs.RATIO["cpu bf16"]
    assert costs.estimate({"k": only}, "k", "a machine", "cpu", "cpu bf16", 100, 4.0).ratio == 0.25
    costs.compiled_code().rmdir()  # without the code it has to be compiled again
    assert estimate({"k": dataclasses.replace(ENTRY, warm=4.0)})[0] == 200.0


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of files")
def test_code_that_another_could_have_written_is_not_run(cache, tmp_path, monkeypatch):
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    (cache / "foreign.so").touch()
    assert costs.private_folder(cache) == cache
    assert not (cache / "foreign.so").exists()
    link = tmp_path / "link"
    link.symlink_to(cache)
    assert costs.private_folder(link) is None
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert costs.private_folder(cache) is None
    with compiled.code_folder():
        folder = os.environ[compiled.CACHE]
        assert not folder.startswith(str(cache))
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    os.rmdir(folder)
    monkeypatch.setenv(compiled.CACHE, str(tmp_path / "own"))
    with compiled.code_folder():
        assert os.environ[compiled.CACHE] == str(tmp_path / "own")
