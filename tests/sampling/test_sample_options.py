"""The keyword arguments of ``ddimx.sample``: written out for editors, declared once."""

import inspect
import pydoc
import typing

import pytest
import torch

import ddimx
from ddimx.errors import UsageError
from ddimx.models.process import Process
from ddimx.options import Options, RunOptions, options
from ddimx.sampling.settings import SampleOptions, labels_for, resolve


def test_what_editors_complete_are_the_declared_options():
    import ddimx.sampling.settings as module

    declared = typing.get_type_hints(Options)
    written = typing.get_type_hints(SampleOptions, vars(module))
    assert [*written] == [name for name in options() if name != "count"]
    for name, kind in written.items():
        if name != "plan":  # a plan's class lies above the options
            assert kind == declared[name], name


def test_whether_a_grid_is_labeled_is_remembered():
    """Else a run that was interrupted would end with another grid."""
    assert RunOptions.of({"labels": False}).remembered() == {"labels": False}
    assert RunOptions.of({}).remembered() == {}


@pytest.mark.parametrize("function", ["sample", "stream", "inpaint", "encode", "interpolate"])
def test_the_functions_take_them(function):
    signature = inspect.signature(getattr(ddimx, function))
    assert signature.parameters["options"].annotation == "Unpack[SampleOptions]"


def test_the_package_lists_its_public_names():
    assert dir(ddimx) == sorted(ddimx.__all__)
    text = pydoc.plain(pydoc.render_doc(ddimx))
    for name in ddimx.__all__:
        assert name in text or name == "__version__"  # which stands under VERSION


def test_every_process_has_the_whole_seam():
    emoji, furniture = (ddimx.load_model(name, device="cpu") for name in ("emoji", "furniture"))
    names = [n for n in vars(Process) if not n.startswith("_")]
    assert len(names) > 10
    for model in (emoji, furniture):
        for name in names:
            assert hasattr(model.process, name), name
    assert len(repr(emoji).splitlines()) == len(repr(furniture).splitlines()) == 3
    assert "images 3x48x48, 88 classes (" in repr(emoji)
    assert "octrees, " in repr(furniture)


def test_a_category_for_each_sample(tiny_model):
    model = ddimx.load_model(tiny_model, device="cpu", dtype="fp32")
    words = ["square", "none", "round", "square"]
    settings = resolve(Options(category=words, count=4, start_index=7), model)
    assert labels_for(settings, model, [9, 7, 8, 10]).tolist() == [0, 1, 2, 1]
    drawn = ddimx.sample(model, steps=2, count=4, category=words, batch_size=3)
    for i, word in enumerate(words):
        alone = ddimx.sample(model, steps=2, count=1, start_index=i, category=word)
        assert torch.allclose(drawn[i], alone[0], atol=1e-5)
    with pytest.raises(UsageError, match="category has 2 names, for 3 samples"):
        ddimx.sample(model, count=3, category=["round", "square"])
    with pytest.raises(UsageError, match="did you mean 'round'"):
        ddimx.sample(model, count=1, category=["rond"])
