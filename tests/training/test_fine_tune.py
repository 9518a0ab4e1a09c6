"""``--init``: settings come from the weights, new classes keep the rest, contradictions end it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from ddimx.config_file import dump_yaml, load_config, override
from ddimx.errors import UsageError
from ddimx.models.factory import build
from ddimx.models.octree.network import cut
from ddimx.progress import Progress
from ddimx.training.fine_tune import Start, check_agrees, with_classes
from ddimx.training.settings import TrainRequest, resolve
from ddimx.weights.formats.native import Header, read_tensors, save
from ddimx.weights.tensors import load_into
from tests.data.shapes.prepared import write_set
from tests.models.octree.small import condition, octree_config, tokens_of, trees, write_model
from tests.sampling import invoke
from tests.training.test_own_data import picture


def start_of(config, network):
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    return Start("old", weights, config, Path("old.safetensors"), ())


def rewritten(config, classes, null_class=True):
    return override(config, [f"model.classes={classes}", f"model.null_class={null_class}"])


def changed(config, fill, before, after):
    """A network with some classes, and one with others made of its weights; the remark."""
    old, new = (rewritten(config, *classes) for classes in (before, after))
    one, other = fill(build(old)[0]).eval(), build(new)[0].eval()
    start, remark = with_classes(start_of(old, one), other, new)
    load_into(other, start.tensors, "old")
    return one, other, remark


PAIRS = [
    (
        "[a, b]",
        "[b, c, d]",
        "classes: new: c, d; as before: b; left: a; all other weights are kept",
    ),
    ("[a]", "[]", "the 1 classes of old are left"),
    ("[]", "[a, b]", "old has no classes; new ones: a, b"),
]


@pytest.mark.parametrize("name", ["unet", "guided"])
@pytest.mark.parametrize(("before", "after", "remark"), PAIRS)
def test_a_unet_with_other_classes_draws_what_it_drew(
    tiny_config, formula_weights, name, before, after, remark
):
    """Without a class, and with one of the same name, the outputs are those of before."""
    keys = ["model.patch_size=1", "model.attn_resolutions=[4]", f"model.name={name}"]
    config = override(tiny_config, [*keys, "model.ch=32", "model.norm_groups=32"])
    one, other, told = changed(config, formula_weights, (before,), (after,))
    assert told == remark
    x, t = torch.linspace(-1, 1, 192).view(1, 3, 8, 8), torch.tensor([300.0])
    with torch.no_grad():
        # A sum of float32 in another order: a few units in the last place of outputs near 1.
        assert torch.allclose(one(x, t), other(x, t), rtol=1e-5, atol=1e-5)
        if before == "[a, b]":
            b, c = torch.tensor([1]), torch.tensor([1])
            assert torch.equal(one(x, t, b), other(x, t, torch.tensor([0])))
            assert not torch.equal(one(x, t, b), one(x, t))
            assert torch.equal(one(x, t), other(x, t, c))  # a new class begins as none


@pytest.mark.parametrize(("before", "after", "remark"), PAIRS)
def test_an_octree_network_with_other_classes_draws_what_it_drew(
    formula_weights, before, after, remark
):
    one, other, told = changed(octree_config(), formula_weights, (before,), (after,))
    assert told == remark
    shapes = trees()
    noised, clean = tokens_of(shapes, t=20.0), cut(tokens_of(shapes), 2)
    outputs = []
    for network in (one, other):
        rows = 0 if network.label is None else network.label.num_embeddings
        state = condition(len(shapes))
        label = torch.full((len(shapes),), rows - 1) if rows else None
        with torch.no_grad():
            outputs.append(network(noised, clean, dataclasses.replace(state, label=label)))
    assert torch.allclose(*outputs, rtol=1e-4, atol=1e-4)


def test_without_a_row_for_no_class_their_mean_stands_for_it(tiny_config, formula_weights):
    one, other, _ = changed(tiny_config, formula_weights, ("[a, b]", False), ("[b, c]",))
    rows, new = one.class_embedding.weight, other.class_embedding.weight
    assert torch.equal(new[0], rows[1])
    assert torch.allclose(new[1], rows.mean(0))
    assert torch.equal(new[1], new[2])


def test_the_same_classes_leave_the_weights_alone(tiny_config, formula_weights):
    start = start_of(tiny_config, formula_weights(build(tiny_config)[0]))
    assert with_classes(start, build(tiny_config)[0], tiny_config) == (start, None)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("diffusion.prediction=epsilon", "diffusion.prediction is epsilon, the weights have v"),
        ("diffusion.beta_schedule=linear", "beta_schedule is linear, the weights have cosine"),
        ("diffusion.num_diffusion_timesteps=500", "timesteps is 500, the weights have 1000"),
        ("model.ch=16", "model.ch is 16, the weights have 8"),
        ("model.norm_groups=2", "model.norm_groups is 2, the weights have 4"),
        ("model.attn_resolutions=[4]", r"model.attn_resolutions is \[0\], the weights have \[1\]"),
        ("data.rescaled=false", "data.rescaled is False, the weights have True"),
    ],
)
def test_a_contradiction_is_refused_by_its_key(tiny_config, setting, message):
    with pytest.raises(UsageError, match=message):
        check_agrees(tiny_config, override(tiny_config, [setting]), "--init old")


@pytest.mark.parametrize(
    "settings",
    [
        ["diffusion.beta_start=0.001"],  # which the cosine schedule has no use for
        ["model.classes=[]", "model.dropout=0.3", "model.ema_rate=0.9", "optim.lr=1"],
        ["data.image_size=16", "model.attn_resolutions=[4]"],
    ],
)
def test_what_is_no_contradiction(tiny_config, settings):
    check_agrees(tiny_config, override(tiny_config, settings), "--init old")


@pytest.mark.parametrize("name", ["emoji", "furniture"])
def test_the_shipped_models_agree_with_their_configurations(name):
    request = TrainRequest("own", load_config(name), init=name)
    assert resolve(request, Progress(quiet=True)).config == request.config


def test_kinds_of_token_noise_may_be_fewer_but_not_others():
    both = octree_config(diffusion={"transitions": ["absorbing", "uniform"]})
    one = override(both, ["diffusion.transitions=[uniform]"])
    check_agrees(both, one, "--init old")
    with pytest.raises(UsageError, match=r"diffusion\.transitions"):
        check_agrees(one, both, "--init old")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    for i in range(4):
        picture(tmp_path / "photos" / ("flags", "boats")[i % 2] / f"{i}.png", (16, 16, 3), i)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_settings_come_from_the_weights(photos):
    """Those of the shipped model; data and training are the new set's."""
    request = TrainRequest("own", None, data="photos", init="emoji", steps=300)
    settings = resolve(request, Progress(quiet=True))
    config, emoji = settings.config, load_config("emoji")
    free = {"classes", "ema_rate"}
    assert config.model.model_dump(exclude=free) == emoji.model.model_dump(exclude=free)
    assert (config.diffusion, config.sampling) == (emoji.diffusion, emoji.sampling)
    assert config.model.classes == ("boats", "flags")
    assert (config.data.image_size, config.data.balance, config.data.root) == (48, "none", "photos")
    assert config.training.n_iters == 300
    assert config.training.snr_clip == emoji.training.snr_clip
    assert config.optim.lr < emoji.optim.lr
    with pytest.raises(UsageError, match="4 channels, and the model of --init emoji draws 3"):
        resolve(dataclasses.replace(request, overrides=("data.channels=4",)), Progress(quiet=True))
    larger = resolve(dataclasses.replace(request, size=(72, 36)), Progress(quiet=True))
    assert larger.config.data.sides == (36, 72)
    assert larger.config.model.attn_resolutions == (12,)  # the middle of three levels, as before
    assert any("was trained on images of 48x48" in remark for remark in larger.remarks)


def test_a_diffusers_folder_is_tuned(photos, tiny_config):
    """Without our own file in it, it says nothing of data, and has no classes."""
    keys = ["model.patch_size=1", "model.classes=[]", "model.attn_resolutions=[4]"]
    plain = override(tiny_config, keys)
    save(Path("plain.safetensors"), build(plain)[0].state_dict(), Header("model", plain, {}))
    assert invoke("convert", "plain.safetensors", "pipe", "--to", "diffusers", "-q").code == 0
    Path("pipe/ddimx.json").unlink()
    done = invoke("train", "--init", "pipe", "-q")
    assert (done.code, done.err) == (
        2,
        "error: --init pipe does not say on what to train: give --data\n",
    )
    settings = resolve(TrainRequest("own", None, data="photos", init="pipe"), Progress(quiet=True))
    assert (settings.config.diffusion.prediction, settings.config.data.image_size) == ("v", 8)
    assert settings.config.model.classes == ("boats", "flags")


def test_weights_of_another_kind_are_refused(photos, tiny_config, tiny_model):
    """A model of v and the cosine schedule is not trained as one of epsilon and linear betas."""
    other = ["diffusion.prediction=epsilon", "diffusion.beta_schedule=linear"]
    Path("eps.yml").write_text(dump_yaml(override(tiny_config, other)))
    done = invoke("train", "-c", "eps.yml", "--init", tiny_model, "-o", "eps", "-q")
    assert done.code == 2
    assert "diffusion.prediction is epsilon, the weights have v" in done.err
    assert "diffusion.beta_schedule is linear, the weights have cosine" in done.err
    assert not Path("eps").exists()


def test_a_resumed_run_cannot_become_another(photos, tiny_config):
    Path("tiny.yml").write_text(dump_yaml(tiny_config))
    few = ("--device", "cpu", "-q", "--steps", 1)
    assert invoke("train", "-c", "tiny.yml", "-o", "run", *few).code == 0
    done = invoke("train", "--resume", "run", "--set", "diffusion.prediction=x0", "-q")
    assert done.code == 2
    assert "diffusion.prediction is x0, the weights have v" in done.err
    assert "Leave these keys out, or begin a new run.\n" in done.err
    other = ["data.dataset=FOLDER", "data.root=photos", "data.balance=none"]
    other += ["model.classes=[boats,flags]", "model.attn_resolutions=[4]"]
    words = [word for setting in other for word in ("--set", setting)]
    few = ("--device", "cpu", "--size", "16x8", "--steps", 2)
    done = invoke("train", "--resume", "run", *few, *words)
    assert done.code == 0, done.err
    assert "the run was trained on images of 8x8, and sees 16x8 now\n" in done.err


def test_a_tuned_model_is_that_of_the_new_classes(photos, tiny_model):
    options = ("--steps", 1, "--batch-size", 2, "--set", "optim.lr=1e-12", "--device", "cpu")
    done = invoke("train", "--init", tiny_model, "--data", "photos", "-o", "run", *options)
    assert done.code == 0, done.err
    assert "classes: new: boats, flags; left: round, square" in done.err
    assert "cannot be converted to diffusers" in done.err
    old = read_tensors(tiny_model)
    new = read_tensors(Path("run/checkpoints/checkpoint-00000001.safetensors"), "ema.")
    rows = old.pop("class_embedding.weight")
    assert torch.equal(new.pop("class_embedding.weight"), rows[[-1, -1, -1]])
    assert all(torch.allclose(new[name], value, atol=1e-6) for name, value in old.items())
    done = invoke("sample", "--model", "run", "--category", "boats", "-n", 1, "--steps", 1, "-q")
    assert done.code == 0, done.err


def test_a_model_tuned_without_classes_is_not_guided_by_default(photos, tiny_model):
    """The guidance that the old model had as its default would ask for a class."""
    options = ("--steps", 1, "--batch-size", 2, "--device", "cpu")
    guided = ("--no-classes", "--set", "sampling.guidance=3@0.3-0.8")
    done = invoke("train", "--init", tiny_model, "--data", "photos", "-o", "run", *guided, *options)
    assert done.code == 0, done.err
    sample = ("sample", "--model", "run", "-n", 1, "--steps", 2, "-q", "-o")
    done = invoke(*sample, "drawn")
    assert done.code == 0, done.err
    assert json.loads(Path("drawn/manifest.json").read_text())["identity"]["guidance"] == 1
    done = invoke(*sample, "refused", "--guidance", 2)
    assert (done.code, Path("refused").exists()) == (2, False)
    assert "--guidance needs classes" in done.err


def test_octrees_are_tuned_at_the_models_depth(tmp_path):
    config = octree_config(write_set(tmp_path / "set", depth=4))
    path = tmp_path / "model.safetensors"
    write_model(path, config)
    request = TrainRequest("own", None, data=str(tmp_path / "set"), init=str(path))
    settings = resolve(request, Progress(quiet=True))
    assert settings.config.data.max_depth == 3
    assert "the octrees of depth 4 are cut to 3, the model's depth" in settings.remarks
    assert settings.config.model.window == config.model.window
