"""Animations: which frames, in which order, for how long, and without keeping them all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddimx.editing.animation import HOLD, MOST_GIF, _Reel, evenly, write_animation


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_frames_are_spread_evenly_and_end_with_the_last(total, most):
    chosen = evenly(total, most)
    assert len(chosen) == len(set(chosen)) == min(total, most)
    assert chosen == sorted(chosen)
    assert chosen[-1] == total - 1
    if len(chosen) > 1:
        assert chosen[0] == 0
        gaps = np.diff(chosen)
        assert gaps.max() - gaps.min() <= 1  # rounding, nothing else


def frames(folder, count, size=8):
    paths = []
    for i in range(count):
        pixels = np.full((size, size, 3), 16 * i % 256, dtype=np.uint8)
        pixels[0, 0] = (i, 255 - i, 0)
        paths.append(folder / f"{i:04d}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_an_animation_shows_every_frame(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    write_animation(path, frames(tmp_path, 5), milliseconds=60)
    with Image.open(path) as opened:
        assert (opened.format, opened.n_frames, opened.size) == (kind.upper(), 5, (128, 128))
        assert opened.info["loop"] == 0
        for i in range(5):
            opened.seek(i)
            opened.load()
            assert opened.info["duration"] == (HOLD if i == 4 else 60)
            shown = np.asarray(opened.convert("RGB")).astype(int)
            assert abs(shown[64, 64] - 16 * i).max() <= 1
            assert abs(shown[3, 3] - (i, 255 - i, 0)).max() <= (0 if kind == "webp" else 8)


def test_a_single_frame_is_a_picture(tmp_path):
    write_animation(tmp_path / "a.webp", frames(tmp_path, 1))
    with Image.open(tmp_path / "a.webp") as opened:
        assert getattr(opened, "n_frames", 1) == 1


def test_a_gif_takes_no_more_frames_than_fit_into_memory(tmp_path):
    write_animation(tmp_path / "a.gif", frames(tmp_path, MOST_GIF + 9, size=128))
    with Image.open(tmp_path / "a.gif") as opened:
        assert opened.n_frames == MOST_GIF


def test_frames_are_read_one_at_a_time(tmp_path, monkeypatch):
    paths = frames(tmp_path, 6)
    read = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path: read.append(path) or real(path))
    reel = _Reel(paths)
    assert read == paths[:1]
    reel.seek(3)
    assert read == [paths[0], paths[3]]
    assert reel.getpixel((3, 3)) == (3, 252, 0)
    with pytest.raises(EOFError):
        reel.seek(6)
