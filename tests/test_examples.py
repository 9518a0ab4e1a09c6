"""Hypothesis' examples depend on nothing but the tests: no clock, and in the gate no chance."""

import hypothesis

from tests.conftest import FULL, ROOT, examples


def test_no_example_is_timed():
    for used in (hypothesis.settings(), examples(20)):
        assert used.deadline is None
        assert used.derandomize is not FULL
        assert used.database is None
        assert hypothesis.HealthCheck.too_slow in used.suppress_health_check
    assert examples(20).max_examples == (120 if FULL else 20)


def test_no_test_brings_a_deadline_back():
    exempt = {ROOT / "tests/conftest.py", ROOT / "tests/test_examples.py"}
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    assert len(texts) > 150
    assert [str(p) for p, text in texts.items() if "deadline=" in text and p not in exempt] == []
