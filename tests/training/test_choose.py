"""The network that is chosen: valid for every size, one that diffusers has, wider for more data."""

import numpy as np
import pytest

from ddimx.config_file import validate
from ddimx.errors import UsageError
from ddimx.training import choose
from ddimx.weights.formats.diffusers.scheduler import write_scheduler
from ddimx.weights.formats.diffusers.settings import write_unet

COUNTS = (1, 500, 5_000, 50_000, 500_000)


def whole(sides=(64, 64), channels=3, count=500, **how):
    """The configuration that is chosen for images."""
    how = {"steps": None, "batch": None, "tuning": False} | how
    loop, optim, rate = choose.training(count, octrees=False, **how)
    data = {"dataset": "FOLDER", "image_size": list(sides), "channels": channels}
    model = choose.unet(sides, channels, count) | {"ema_rate": rate}
    rest = choose.diffusion(octrees=False)
    return validate({"data": data, "model": model, "training": loop, "optim": optim, **rest}, "own")


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    "sides", [(64, 64), (48, 64), (28, 28), (8, 8), (4, 4), (30, 30), (96, 160), (256, 256)]
)
def test_the_network_is_one_that_diffusers_has(sides, count):
    config = whole(sides, channels=1 + 2 * (count > 500), count=count)
    settings = write_unet(config, "own")
    assert settings["sample_size"] in (max(sides), list(sides))
    assert write_scheduler(config, "own")["prediction_type"] == "v_prediction"
    # Attention over more than 16x16 positions would take most of the time.
    assert config.resolutions[-1] <= 16
    assert all(size <= 16 for size in config.model.attn_resolutions)
    assert all(w / config.model.norm_groups >= 4 for w in config.model.widths)


@pytest.mark.parametrize(
    ("sides", "other"), [((50, 50), "48"), ((31, 31), "32"), ((50, 100), "96x48"), ((65, 64), "64")]
)
def test_sides_that_cannot_be_halved_are_refused_with_some_that_can(sides, other):
    with pytest.raises(UsageError, match=f"--size {other} can"):
        choose.unet(sides, 3, 500)
    width, _, height = other.partition("x")
    choose.unet((int(height or width), int(width)), 3, 500)


def test_more_images_get_a_wider_network_and_more_steps():
    configs = [whole(count=count) for count in COUNTS]
    for values in (
        [c.model.ch for c in configs],
        [c.training.n_iters for c in configs],
        [c.training.batch_size for c in configs],
    ):
        assert values == sorted(values)
        assert len(set(values)) == 3
    rates = [c.optim.lr for c in configs]
    assert rates == sorted(rates, reverse=True)
    assert configs[-1].model.dropout == 0 < configs[1].model.dropout


@pytest.mark.parametrize("steps", [1, 2, 50, 700, 5_000, 1_000_000])
@pytest.mark.parametrize("count", [1, 7, 5_000])
def test_the_steps_alone_decide_when_it_ends(count, steps):
    config = whole(count=count, steps=steps)
    loop, optim = config.training, config.optim
    assert loop.n_iters == steps
    assert loop.n_epochs * count / loop.batch_size >= steps
    assert optim.warmup_steps + optim.decay_steps <= steps
    assert loop.snapshot_freq == min(max(100, steps // 10), 5_000) == loop.validation_freq
    # What the average forgets in a tenth of the run: e^-1 of its start is left, where it can be.
    assert steps < 100 or config.model.ema_rate ** (steps / 10) <= np.exp(-0.99)


def test_tuning_takes_smaller_steps():
    assert whole(tuning=True).optim.lr < 0.5 * whole().optim.lr


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ([(40, 40)], 40),
        ([(64, 48)] * 3, 48),
        ([(3000, 4000)] * 2 + [(20, 20)], 64),
        ([(28, 28)], 28),
        ([(50, 90), (51, 51)], 48),
        ([(8, 8)], 8),
        ([(3, 9)], 3),
        ([(1, 1)], 1),
    ],
)
def test_the_usual_size_is_that_of_most_pictures(sides, size):
    assert choose.usual_size(np.array(sides, dtype=np.int32)) == size
