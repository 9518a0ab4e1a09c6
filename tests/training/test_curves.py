"""The picture of a run's curves: what it shows of a log, and when there is none."""

import json
import math
import sys

import numpy as np
import pytest
from PIL import Image

from ddimx.training.curves import draw_curves, figure_of, moving_mean, panels_of


def log_lines(steps=20_000, every=50):
    """A log as training writes it: losses fall as 1 / sqrt(step), the first ones are large."""
    lines = []
    for step in range(every, steps + 1, every):
        loss = 40 if step <= 2 * every else 3 / math.sqrt(step)
        line = {"step": step, "loss": loss, "grad_norm": 1.0, "learning_rate": step / steps}
        lines.append(line | {"loss_by_time": [loss, None if step == 100 else loss / 2]})
        if step % 5000 == 0:
            lines.append({"step": step, "validation_train": loss, "validation_held_out": 2 * loss})
            lines.append({"step": step, "frechet_distance": 100 - step / 1000})
    return lines


def write(path, lines, end=""):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return path


def test_what_a_log_holds_by_step():
    panels = panels_of(log_lines())
    assert list(panels) == [
        "loss",
        "loss by time, from clean (0%) to noise (100%)",
        "learning rate",
        "Fréchet distance (no FID)",
    ]
    training, of_training, held_out = panels["loss"]
    assert training.steps == list(range(50, 20_001, 50))
    assert of_training.steps == held_out.steps == [5000, 10_000, 15_000, 20_000]
    assert held_out.values == pytest.approx([6 / math.sqrt(step) for step in held_out.steps])
    first, second = panels["loss by time, from clean (0%) to noise (100%)"]
    assert (first.label, second.label) == ("0% to 50%", "50% to 100%")
    assert len(first.steps) == 400
    assert 100 not in second.steps  # a part without examples has no mean
    (distance,) = panels["Fréchet distance (no FID)"]
    assert distance.values == [95, 90, 85, 80]


def test_the_picture_is_drawn_from_these_numbers():
    figure = figure_of(log_lines())
    axes = figure.axes
    assert [one.get_title(loc="left") for one in axes] == list(panels_of(log_lines()))
    raw, smooth, *_ = axes[0].lines
    assert raw.get_ydata()[0] == 40
    assert smooth.get_xdata().tolist() == list(range(50, 20_001, 50))
    assert axes[0].get_yscale() == "log"
    low, high = axes[0].get_ylim()
    assert low < 3 / math.sqrt(20_000)  # all that is not of the opening is in sight
    assert 6 / math.sqrt(5000) < high < 1
    assert axes[2].get_yscale() == "linear"
    assert axes[2].lines[0].get_ydata()[-1] == 1.0


def test_losses_that_may_be_negative_have_a_plain_axis():
    lines = [{"step": step, "loss": step / 10 - 20} for step in (100, 200, 300)]
    assert figure_of(lines).axes[0].get_yscale() == "linear"


def test_a_moving_mean():
    steps, values = np.array([0, 10, 20, 30, 100]), np.array([1.0, 2.0, 6.0, 4.0, 9.0])
    assert moving_mean(steps, values, 20).tolist() == [1.5, 3.0, 4.0, 5.0, 9.0]
    assert moving_mean(steps, values, 0).tolist() == values.tolist()


def test_a_picture_of_a_log_with_notes_and_the_beginning_of_a_line(tmp_path):
    lines = [{"step": 10, "note": "cannot write messages"}, *log_lines()]
    lines.append(
        {"step": 20_050, "loss": math.nan}
    )  # as JSON's readers in Python write and take it
    log = write(tmp_path / "log.jsonl", lines, '{"step": 21')
    assert draw_curves(tmp_path / "curves.png", log) is None
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1200, 840)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


def test_a_log_without_a_curve_makes_no_picture(tmp_path):
    path = tmp_path / "curves.png"
    assert draw_curves(path, tmp_path / "absent.jsonl") is None
    short = [{"step": 50, "loss": 1.0}, {"step": 60, "validation_train": 1.0}]
    assert draw_curves(path, write(tmp_path / "log.jsonl", short)) is None
    assert not path.exists()


def test_without_matplotlib_there_is_a_remark_and_no_old_picture(tmp_path, monkeypatch):
    path, log = tmp_path / "curves.png", write(tmp_path / "log.jsonl", log_lines())
    path.write_bytes(b"of before")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    remark = draw_curves(path, log)
    assert remark.startswith("curves.png is omitted: matplotlib, which charts need")
    assert 'pip install "ddimx[plot]"' in remark
    assert not path.exists()
