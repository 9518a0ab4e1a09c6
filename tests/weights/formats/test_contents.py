"""Weights inside mappings and under prefixes, and other programs' files by their names."""

import argparse
import os

import numpy as np
import pytest
import torch

from ddimx.errors import DdimxError, UsageError
from ddimx.weights.formats.pickled import read_pickled
from ddimx.weights.locate.source import read_any
from tests.weights import plain, same, weights

CONFIG = plain()
RAW, EMA = weights(CONFIG, 1), weights(CONFIG, 2)
N = torch.zeros(2, 2)


def under(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ckpt.pt"


@pytest.mark.parametrize(
    ("content", "which", "words"),
    [
        ({"state_dict": RAW, "epoch": 3}, "unstated", "under 'state_dict.' .* does not say"),
        ({"epoch": 3, "model": under("module.", RAW)}, "unstated", "under 'model.module.'"),
        (under("module._orig_mod.", RAW), "unstated", "under 'module._orig_mod.'"),
        (under("net.", RAW), "unstated", "under 'net.'"),
        ({"ema": RAW}, "ema", "the averaged weights under 'ema.' are taken$"),
        (
            {"model": EMA, "ema": RAW, "step": 9},
            "ema",
            "averaged .* --weights raw takes the others",
        ),
        ({"net_model": EMA, "ema_model": RAW, "optim": {"state": {}}}, "ema", "under 'ema_model.'"),
        (
            {
                "state_dict": {**under("model.", EMA), **under("model_ema.module.", RAW)},
                "optimizer_states": [{"state": {0: {"exp_avg": N}}, "param_groups": []}],
                "pytorch-lightning_version": "2.4",
            },
            "ema",
            "under 'state_dict.model_ema.module.'",
        ),
        (
            {
                "model": EMA,
                "ema": {**under("online_model.", EMA), **under("ema_model.", RAW), "step": N},
            },
            "ema",
            "under 'ema.ema_model.'",
        ),
        ({"n_averaged": torch.tensor(4), **under("module.", RAW)}, "ema", "averaged"),
        ({"model": EMA, "model_ema": RAW}, "ema", "under 'model_ema.'"),
        ({"model": EMA, "modelEMA": RAW}, "ema", "under 'modelEMA.'"),
        ({"net": EMA, "EMA": RAW}, "ema", "under 'EMA.'"),
        (
            {"state_dict": EMA, "callbacks": {"EMA": {"ema_state_dict": under("model.", RAW)}}},
            "ema",
            "under 'callbacks.EMA.ema_state_dict.model.' .*raw takes the others",
        ),
        (  # Lightning's WeightAveraging exchanges the two
            {"state_dict": under("model.", RAW), "current_model_state": under("model.", EMA)},
            "ema",
            "averaged weights under 'state_dict.model.' .*raw takes the others",
        ),
    ],
)
def test_ours_is_ours_wherever_it_lies(path, content, which, words):
    torch.save(content, path)
    found = read_pickled(path)
    assert same(found.tensors, RAW)
    assert found.which == which
    (note,) = found.notes
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(note)
    assert found.info == ({"step": 9} if "step" in content else {})


def test_the_other_weights_can_be_had(path):
    torch.save({"ema": EMA, "model": under("module.", RAW)}, path)
    found = read_pickled(path, "raw")
    assert same(found.tensors, RAW)
    assert found.notes == (
        "the last (raw) weights under 'model.module.' are taken; --weights ema takes the others",
    )
    torch.save({"model": RAW}, path)
    with pytest.raises(UsageError, match="omit --weights raw"):
        read_pickled(path, "raw")


def test_an_average_without_names_is_not_taken_for_missing(path):
    content = {"model": RAW, "ema": {"decay": 0.999, "shadow_params": list(EMA.values())}}
    torch.save(content, path)
    found = read_pickled(path)
    assert same(found.tensors, RAW)
    assert found.which == "raw"
    assert "shadow_params" in found.notes[-1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"netA": RAW, "netB": EMA}, "further weights under 'netB.', which are not read"),
        ({"model": EMA, "ema_0.9": RAW, "ema_0.99": EMA}, "further weights under 'ema_0.99.'"),
    ],
)
def test_weights_that_are_neither_chosen_nor_offered_are_named(path, content, words):
    torch.save(content, path)
    found = read_pickled(path)
    assert same(found.tensors, RAW)
    assert words in found.notes[-1]


def test_an_average_without_names_alone_says_how_to_write_it(path):
    torch.save({"decay": 0.9, "shadow_params": list(EMA.values())}, path)
    with pytest.raises(DdimxError, match=r"without names .*copy_to\(model.parameters\(\)\)"):
        read_pickled(path)


def test_plain_safetensors_under_a_prefix_are_read(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file(under("_orig_mod.", RAW), path)
    assert same(read_any(path, None).tensors, RAW)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("lora_unet_down_blocks_0.lora_up.weight", "a LoRA file"),
        ("unet.down.0.to_q.lora_A.weight", "a LoRA file"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("cond_stage_model.transformer.x model.diffusion_model.input_blocks.0.0.weight", "Stable"),
        ("conditioner.embedders.0.x first_stage_model.encoder.conv_in.weight", "Stable Diffusion"),
        ("model.diffusion_model.input_blocks.0.0.weight", r"latent diffusion \(CompVis\)"),
        ("x_embedder.proj.weight blocks.0.adaLN_modulation.1.weight", "a DiT or SiT"),
        ("module.all_modules.0.W", "score_sde"),
        ("inner_model.mapping.0.weight", "k-diffusion"),
        ("inner_model.u_net.d_blocks.0.0.main.0.weight", "k-diffusion"),
        ("double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("encoder.conv_in.weight decoder.up.0.block.0.conv1.weight", "an autoencoder"),
        ("input_blocks.0.0.weight time_embed.0.weight out.2.weight", "a classifier of guided"),
        ("map_layer0.weight map_layer1.weight", "NVIDIA's EDM2"),
        ("model_ema.diffusion_modelinput_blocks00weight", r"latent diffusion \(CompVis\)"),
        ("model.null_classes_emb model.classes_mlp.0.weight", "classifier_free_guidance"),
        ("to_time_emb.0.weights", "a KarrasUnet"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_other_programs_files_are_refused_by_name(path, names, words, wrapped):
    tensors = dict.fromkeys(names.split(), N)
    torch.save({"state_dict": tensors} if wrapped else tensors, path)
    with pytest.raises(DdimxError, match=rf"ckpt\.pt: this is .*{words}"):
        read_pickled(path)


def test_an_optimizers_state_is_named(path):
    torch.save(torch.optim.Adam([torch.nn.Parameter(N)]).state_dict(), path)
    with pytest.raises(DdimxError, match="the state of an optimizer, which holds no weights"):
        read_pickled(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.nn.Linear(2, 2), r"class torch.nn.modules.linear.Linear, .*model.state_dict\(\)"),
        ({"state_dict": RAW, "hyper_parameters": argparse.Namespace(a=1)}, "settings of the prog"),
        ({"params": np.zeros(3)}, "arrays of another library"),
    ],
)
def test_what_is_more_than_tensors_says_how_to_write_them(path, content, words):
    torch.save(content, path)
    with pytest.raises(DdimxError, match=f"not a file of tensors alone.*{words}"):
        read_pickled(path)


class _Call:
    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_call_in_a_pickle_is_named_and_not_made(path, zipped, monkeypatch):
    monkeypatch.chdir(path.parent)
    torch.save({"model": RAW, "x": _Call()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DdimxError, match=r"a call of (posix|nt)\.mkdir, which was not made"):
        read_pickled(path)
    assert not (path.parent / "made").exists()


def test_a_pickle_of_edm_says_how_to_convert_it(path):
    """Such a file names the function that compiles the source code it carries."""
    path.write_bytes(
        b"\x80\x04\x95\x40\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x03ema\x94\x8c\x17"
        b"torch_utils.persistence\x94\x8c\x1b_reconstruct_persistent_obj\x94\x93\x94."
    )
    with pytest.raises(DdimxError, match=r"NVIDIA's EDM or StyleGAN.*\['ema'\].state_dict\(\)"):
        read_pickled(path)
