"""A text-to-image pipeline, in memory and on disk."""

import pytest

from tests.integrations import pipeline


@pytest.fixture
def pipe(tmp_path):
    return pipeline(tmp_path / "parts")


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """The folder of a text-to-image pipeline with random weights; read only."""
    path = tmp_path_factory.mktemp("text")
    pipeline(path / "parts").save_pretrained(path / "painter")
    return path / "painter"
