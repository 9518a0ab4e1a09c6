"""The same numbers as diffusers' DDIMPipeline and as the paper's formula, in float32 without TF32.

The pipeline is configured as the paper's code samples (``PAPER`` in ``models.py``).
"""

from decimal import Decimal, localcontext

import pytest
import torch
from diffusers import UNet2DModel

import ddimx
from ddimx.config import DiffusionConfig
from ddimx.solvers.ddim import ddim
from ddimx.solvers.schedule import Schedule
from ddimx.solvers.timesteps import spaced
from ddimx.weights.model import load_model
from tests.weights.formats.diffusers.models import CIFAR10, pipeline, unet

STEPS, COUNT, SEED, GROUPS = 50, 4, 3, 4


@pytest.fixture(autouse=True)
def exact_float32():
    """No TF32 on a GPU, where fp32 would otherwise keep 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def predicting_noise():
    """A UNet2DModel of random weights whose output is x_t and a share of what it computes.

    A wholly random network explains nothing of x_T, and the 1/sqrt(alpha_bar_T) = 157 that the
    sampler divides by would drive every pixel out of the picture, where images agree whatever
    the network does. With epsilon = x_t the result is x_T / 2: dy/dsigma = y / sqrt(1 + sigma^2)
    for y = x_t / sqrt(alpha_bar_t). Here x and -x pass through the outermost skip connection,
    among constants so large that the norm divides by nearly the same number everywhere, and
    silu(z) - silu(-z) = z.
    """
    model = unet(norm_num_groups=GROUPS)
    share, constant = 0.1, 8.0
    per_group = 32 // GROUPS
    last = model.up_blocks[-1].resnets[-1]
    with torch.no_grad():
        model.conv_in.weight[: 3 * per_group] = 0
        model.conv_out.weight.mul_(share)
        for c in range(3):
            first = c * per_group
            model.conv_in.weight[first, c, 1, 1] = 1
            model.conv_in.weight[first + 1, c, 1, 1] = -1
            model.conv_in.bias[first : first + 2] = 0
            signs = torch.tensor([1.0, -1.0]).repeat(per_group // 2 - 1)
            model.conv_in.bias[first + 2 : first + per_group] = constant * signs
            spread = (((per_group - 2) * constant**2 + 2) / per_group) ** 0.5
            model.conv_out.weight[c, first, 1, 1] = spread
            model.conv_out.weight[c, first + 1, 1, 1] = -spread
        last.conv2.weight.mul_(share)
        last.conv_shortcut.weight.mul_(share)
        last.conv_shortcut.weight[:, 32:, 0, 0] = torch.eye(32)  # the skip connection's channels
        last.conv_shortcut.bias.mul_(share)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / "model"
    pipeline(predicting_noise()).save_pretrained(path)
    return path


def read_unet(path):
    return UNet2DModel.from_pretrained(path / "unet", low_cpu_mem_usage=False)


def from_diffusers(path, **settings):
    made = pipeline(read_unet(path), **settings)
    images = made(
        batch_size=COUNT,
        generator=torch.Generator().manual_seed(SEED),
        num_inference_steps=STEPS,
        eta=0.0,
        output_type="np",
    ).images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def from_ddimx(path, **options):
    model = load_model(path, device="cpu", dtype="fp32")
    start = torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(SEED))
    samples = ddimx.sample(model, count=COUNT, start=start, steps=STEPS, **options)
    return (samples / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("t", [0.0, 17.0, 500.0, 999.0])
def test_the_networks_outputs_agree_to_1e_5(folder, t):
    theirs = read_unet(folder)
    ours = load_model(folder, device="cpu", dtype="fp32").network
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    times = torch.full((3,), t)
    with torch.no_grad():
        expected = theirs(x, times).sample
        assert (ours(x, times) - expected).abs().max() < 1e-5
    assert expected.std() > 0.1


def test_images_after_50_steps_agree_to_1e_4(folder, tmp_path):
    expected, images = from_diffusers(folder), from_ddimx(folder)
    inside = (expected > 0.01) & (expected < 0.99)
    assert inside.float().mean() > 0.8  # where the clamp hides nothing
    assert (images - expected).abs().max() < 1e-4
    # The test can fail: another spacing, or one bias at the far end of the network.
    assert (from_ddimx(folder, spacing="trailing") - expected).abs().max() > 1e-3
    changed = read_unet(folder)
    changed.mid_block.resnets[0].conv1.bias.data[0] += 1.0
    pipeline(changed).save_pretrained(tmp_path)
    assert (from_ddimx(tmp_path) - expected).abs().max() > 1e-3


def test_a_scheduler_that_clips_is_followed(folder, tmp_path):
    """clip_sample=True is diffusers' default and google/ddpm-cifar10-32's setting."""
    settings = {"clip_sample": True, "clip_sample_range": 0.5}
    pipeline(read_unet(folder), **settings).save_pretrained(tmp_path)
    expected = from_diffusers(folder, **settings)
    assert (from_ddimx(tmp_path) - expected).abs().max() < 1e-4
    assert (from_ddimx(tmp_path, clip="none") - expected).abs().max() > 1e-3


def test_the_true_cifar10_shape(tmp_path):
    """35.7 million parameters with random weights: one evaluation agrees to 1e-5."""
    theirs = unet(**CIFAR10)
    assert sum(p.numel() for p in theirs.parameters()) == 35_746_307
    pipeline(theirs).save_pretrained(tmp_path)
    ours = load_model(tmp_path, device="cpu", dtype="fp32").network
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs(x, torch.tensor([500.0])).sample
        assert (ours(x, torch.tensor([500.0])) - expected).abs().max() < 1e-5
    assert expected.std() > 0.05


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 10, 50, 1000])
def test_the_table_of_coefficients_is_the_papers_formula_to_1e_12(eta, steps):
    """Equations 12 and 16 of arXiv 2010.02502, written out in 50 decimal digits.

    The table's own error is that of a product of up to 1000 factors, 1e-13: relative in r and s,
    which reach 157, absolute in the other columns, which lie in [0, 1].
    """
    plan = ddim(Schedule.from_config(DiffusionConfig()), spaced("ddim", 1000, steps), eta=eta)
    assert len(plan) == steps
    stride = 1000 // steps
    with localcontext() as context:
        context.prec = 50
        alpha_bar = [Decimal(1)]
        for i in range(1000):
            beta = Decimal("0.0001") + (Decimal("0.02") - Decimal("0.0001")) * i / 999
            alpha_bar.append(alpha_bar[-1] * (1 - beta))
        for row in range(steps):
            t = (steps - 1 - row) * stride
            now, after = alpha_bar[t + 1], alpha_bar[max(t + 1 - stride, 0)]
            sigma = Decimal(eta) * ((1 - after) / (1 - now) * (1 - now / after)).sqrt()
            assert plan.t[row] == t
            assert plan.r[row] == pytest.approx(float(1 / now.sqrt()), rel=1e-12)
            assert plan.s[row] == pytest.approx(float(-((1 - now) / now).sqrt()), rel=1e-12)
            assert plan.w[row] == pytest.approx(float(after.sqrt()), abs=1e-12)
            assert plan.c[row] == pytest.approx(float(sigma), abs=1e-12)
            direction = (1 - after - sigma * sigma).sqrt() if after < 1 else Decimal(0)
            assert plan.b[row, 0] == pytest.approx(float(direction), abs=1e-12)
    assert not plan.a.any()
