"""``ddimx train --data``: what a path holds, what is made of it, and what is said."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from ddimx.config_file import load_config
from ddimx.data import recognize as recognizing
from ddimx.data.images import listing
from ddimx.data.images import scan as scanning
from ddimx.data.recognize import recognize
from ddimx.errors import DdimxError
from ddimx.models import gaussian
from ddimx.progress import Progress
from ddimx.training import preview
from ddimx.training.report import duration
from ddimx.training.settings import TrainRequest, resolve
from ddimx.weights.formats.native import read_header
from tests.data.shapes.prepared import write_set, write_variants
from tests.sampling import invoke


def picture(path, shape=(8, 8, 3), value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """A folder that holds one of each kind."""
    root = tmp_path_factory.mktemp("things")
    for i in range(6):
        picture(root / "pictures" / ("cats", "dogs")[i % 2] / f"{i}.png", value=i)
        picture(root / "gray" / f"{i}.png", (20, 30), i)
        picture(root / "wide" / f"{i}.png", (8, 16, 3), i)
    (root / "pictures" / "dogs" / "broken.png").write_bytes(b"no picture")
    (root / "pictures" / "dogs" / "note.txt").write_text("a note")
    with zipfile.ZipFile(root / "pictures.zip", "w") as archive:
        for path in sorted((root / "pictures").rglob("*.png")):
            archive.write(path, path.relative_to(root / "pictures"))
    images = np.zeros((5, 16, 24, 1), dtype=np.uint8)
    np.savez(root / "some.npz", images=images, labels=np.array([0, 1, 2, 1, 0]))
    np.savez(root / "far.npz", images=images, labels=np.array([0, 1, 2, 1, 10**12]))
    np.savez(root / "two.npz", images=np.zeros((5, 16, 24, 2), dtype=np.uint8))
    invoke("prepare", "images", root / "gray", root / "packed.npy", "--size", 12, "-q")
    write_set(root / "octrees")
    (root / "meshes").mkdir()
    (root / "meshes" / "a.obj").write_text("v 0 0 0\n")
    (root / "lone").mkdir()
    np.save(root / "lone" / "a.npy", images)
    (root / "nothing").mkdir()
    return root


@pytest.fixture
def here(things, monkeypatch, tmp_path):
    """The folder of things as the current one; runs go elsewhere, and previews are short."""
    monkeypatch.chdir(things)
    monkeypatch.setattr(gaussian, "PREVIEW_STEPS", 1)
    monkeypatch.setattr(preview, "SAMPLES", 1)
    return things


def resolved(data, *overrides, **more):
    request = TrainRequest("own", more.pop("config", None), overrides, data=data, **more)
    return resolve(request, Progress(quiet=True))


@pytest.mark.parametrize(
    ("name", "dataset", "size", "channels", "classes"),
    [
        ("pictures", "FOLDER", 8, 3, ("cats", "dogs")),
        ("pictures.zip", "FOLDER", 8, 3, ("cats", "dogs")),
        ("gray", "FOLDER", 20, 1, ()),
        ("packed.npy", "PACKED", 12, 3, ()),
        ("some.npz", "NPZ", (16, 24), 1, ("0", "1", "2")),
        ("octrees", "OCTREE", 1, 1, ("chair", "table")),
    ],
)
def test_what_lies_there_is_recognized(here, name, dataset, size, channels, classes):
    config = resolved(name).config
    assert (config.data.dataset, config.data.root) == (dataset, name)
    assert (config.data.image_size, config.data.channels) == (size, channels)
    assert config.model.classes == classes
    assert config.data.octrees == (config.model.name == "octree") == (dataset == "OCTREE")
    assert not resolved(name, classes=False).config.model.classes


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--data nowhere", 2, "--data nowhere: no such file or folder"),
        ("--data nothing", 1, "nothing: no images"),
        ("--data meshes", 2, "ddimx prepare octrees meshes meshes-octrees --depth 5"),
        ("--data lone", 2, "named itself, as --data lone/NAME.npy"),
        ("--data far.npz", 2, "labels from 0 to 1000000000000; those of classes lie between"),
        ("--data two.npz", 2, "images have 1, 3 or 4 channels, and these 2"),
        ("--data pictures --size 50", 2, "--size 48 can"),
        ("--data pictures --size 8x", 2, "write pixels as 512"),
        ("--data packed.npy --size 16", 2, "its images are 12x12 and are not resized"),
        ("--data pictures --set data.root=gray", 2, "--data and --set data.root say the same"),
        ("--data gray --steps 3 --set training.n_iters=4", 2, "--steps and --set training.n_iters"),
        ("--data pictures --strict --size 8", 1, "leave --strict away"),
        ("--data octrees --config emoji", 2, "holds octrees, and the model of emoji draws images"),
        ("--data pictures --init furniture", 2, "of --init furniture draws octrees"),
        ("--data octrees --size 8", 2, "--size is for images"),
        ("--data octrees --init furniture", 2, "Prepare them again with --depth 5"),
        ("--data pictures --set data.image_size=big", 2, "data.image_size 'big': write 64"),
        ("--data pictures/dogs/note.txt", 2, "nothing that can be trained on, which is a folder"),
        ("--data gray/0.png", 2, "a single picture; give the folder that it is in"),
        ("--data lone/a.npy", 1, "an array of your own is trained on as 'images' in an .npz"),
        ("--data pictures --resume runs", 2, "named by --set data.root=DIR"),
    ],
)
def test_what_cannot_be_done_is_one_clear_message(here, words, code, message):
    done = invoke("train", "-q", "--device", "cpu", *words.split())
    assert (done.code, done.err.count("error:")) == (code, 1), done.err
    assert message in done.err
    assert not (here / "runs").exists()


def test_a_folder_is_all_that_is_needed(here, tmp_path, monkeypatch):
    """The issue's first command: what it says, what it leaves, and that its result is used."""
    monkeypatch.chdir(tmp_path)
    data = here / "pictures"
    small = ("--steps", 1, "--batch-size", 2, "--device", "cpu")
    done = invoke("train", "--data", data, "--size", 4, *small)
    assert done.code == 0, done.err
    for line in (
        f"{data}: 6 images, none is held out",
        "2 classes: cats 3, dogs 3",
        "1 skipped, pictures that cannot be read: dogs/broken.png",
        "1 skipped, files that are no pictures: dogs/note.txt",
        "all 6 pictures are shrunk to 4x4 (they are 8x8)",
    ):
        assert line in done.err
    assert done.err.count("broken.png") == 1  # said at the start, and not again at every draw
    folder = tmp_path / "runs" / "0001-train-pictures"
    header = read_header(folder / "checkpoints" / "checkpoint-00000001.safetensors")
    assert header.config.model.classes == ("cats", "dogs")
    assert load_config(str(folder / "config.yml")) == header.config
    (log,) = (folder / "log.jsonl").read_text().splitlines()
    assert "validation_train" in json.loads(log)
    done = invoke("sample", "--model", folder, "--category", "dogs", "-n", 1, "--steps", 1, "-q")
    assert done.code == 0, done.err
    done = invoke("convert", folder, "pipeline", "--to", "diffusers", "-q")
    assert done.code == 0, done.err


def test_the_same_command_goes_on_though_the_data_have_changed(here, tmp_path, monkeypatch):
    """What was chosen by the data is not chosen again, and the change is said."""
    for i in range(3):
        picture(tmp_path / "mine" / f"{i}.png", value=i)
    monkeypatch.chdir(tmp_path)
    command = ("train", "--data", "mine", "--batch-size", 2, "--device", "cpu", "-o", "run")
    first = (*command, "--steps", 2, "--set", "training.snapshot_freq=1")
    assert invoke(*first, "-q").code == 0
    (tmp_path / "run" / "checkpoints" / "checkpoint-00000002.safetensors").unlink()
    for i in range(5):
        picture(tmp_path / "mine" / f"new{i}.png", (16, 16, 3), i)
    again = invoke(*first)
    assert again.code == 0, again.err
    assert "run: going on from step 1" in again.err
    assert "pixels are trained on" not in again.err  # what would be chosen now
    assert "the data have changed since step 1" in again.err
    header = read_header(tmp_path / "run" / "checkpoints" / "checkpoint-00000002.safetensors")
    assert header.config.data.image_size == 8
    other = invoke(*command, "--steps", 3, "-q")
    assert other.code == 2
    assert "go on with --resume run" in other.err
    assert invoke("train", "--resume", "run", "--steps", 3, "-q").code == 0


def test_few_pictures_are_all_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(recognizing, "FEW", 3)
    for i in range(3):
        picture(tmp_path / f"{i}.png", value=i)
    assert recognize(str(tmp_path)).data["held_out"] is False
    picture(tmp_path / "3.png", value=3)
    assert recognize(str(tmp_path)).data["held_out"] is True


def test_a_configuration_keeps_its_network_and_takes_the_data(here, tiny_config):
    config = resolved("pictures", config=tiny_config, size=(8, 16)).config
    assert config.data.sides == (16, 8)
    assert config.model.classes == ("cats", "dogs")
    assert (config.data.balance, config.data.random_flip) == ("none", True)
    # The level that attends stays the one of a quarter of the pixels, whatever its size.
    assert (tiny_config.model.attn_resolutions, config.model.attn_resolutions) == ((2,), (4,))
    same = {"ch", "ch_mult", "patch_size", "dropout", "ema_rate"}
    assert config.model.model_dump(include=same) == tiny_config.model.model_dump(include=same)
    assert config.optim == tiny_config.optim
    assert config.training == tiny_config.training


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_and_transparent_pictures_for_networks_of_as_many_channels(here, channels):
    """As well by a configuration's own keys as by the choice."""
    keys = [f"data.channels={channels}", f"model.in_channels={channels}"]
    keys.append(f"model.out_ch={channels}")
    assert resolved("pictures", keys[0]).config.model.in_channels == channels
    config = resolved("pictures", *keys, config=load_config("cifar10")).config
    assert config.sample_shape == (channels, 32, 32)


def test_what_becomes_of_colors_and_transparency_is_said(here, tmp_path):
    assert "the pictures are gray, and so is the model" in "".join(resolved("gray").remarks)
    one = resolved("pictures", "data.channels=1").remarks
    assert "6 of 6 pictures are in color and become gray" in one
    picture(tmp_path / "clear" / "a.png", (8, 8, 4))
    clear = str(tmp_path / "clear")
    assert "transparent parts of pictures are put on white; --set data.channels=4" in "".join(
        resolved(clear).remarks
    )
    assert "transparent" not in "".join(resolved(clear, "data.channels=4").remarks)


def test_families_are_left_out_where_the_data_are_named_otherwise(here):
    """``--config emoji`` with a folder in place of its data, which alone has families."""
    keys = ("data.dataset=FOLDER", "data.root=pictures", "model.classes=[]")
    settings = resolve(TrainRequest("own", load_config("emoji"), keys), Progress(quiet=True))
    assert settings.config.data.balance == "none"
    assert settings.remarks == (
        "data.balance is left out: a FOLDER data set has no families",
        "data.unflipped: no class or group of classes is called symbols/letter",
    )


def test_a_folder_is_listed_and_its_headers_are_read_once(here, tmp_path, monkeypatch):
    """By --data, to choose by; what is said of them, and --strict, need no second look."""
    calls = []
    for module, name in ((listing, "folder_contents"), (scanning, "_header")):
        function = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, f=function: calls.append(f.__name__) or f(*args)
        )
    words = ("--size", 4, "--steps", 1, "--batch-size", 2, "--device", "cpu", "--strict")
    done = invoke("train", "--data", here / "gray", *words, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert sorted(calls) == ["_header"] * 6 + ["folder_contents"]


def test_what_is_white_is_said_with_the_data(tmp_path):
    """Twelve bits in sixteen are refused, and the way out that the message names is one."""
    for i in range(3):
        Image.fromarray(np.full((8, 8), 4000 + i, dtype=np.uint16)).save(tmp_path / f"{i}.png")
    with pytest.raises(DdimxError, match=r"12 bits \(white is 4095\).* set data\.white"):
        resolved(str(tmp_path))
    for wrong in ("dark", "0"):
        with pytest.raises(DdimxError):
            resolved(str(tmp_path), f"data.white={wrong}")
    assert resolved(str(tmp_path), "data.white=4095").config.data.white == 4095


def test_pictures_of_many_sizes_and_shapes(tmp_path):
    for i, shape in enumerate([(8, 8, 3), (16, 16, 3), (64, 64, 3), (16, 32, 3)]):
        picture(tmp_path / "mixed" / f"{i}.png", shape, i)
    sides = recognize(str(tmp_path / "mixed")).sides
    data = load_config("cifar10", ["data.image_size=16"]).data
    assert recognizing._resizing(sides, data) == [
        "1 of 4 pictures are shrunk to 16x16 (they are 64x64); a larger --size keeps more of them",
        "1 of 4 pictures are enlarged to 16x16 (they are 8x8), which adds no detail; a smaller "
        "--size needs less time",
        "1 of 4 pictures are cut at the edges to fit 16x16",
    ]
    assert recognizing._resizing(sides[3:], data) == [
        "the picture is cut at the edges to fit 16x16; a --size of their shape, as 64x48, keeps "
        "the edges"
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 seconds"), (125, "2 minutes"), (9_000, "2.5 hours"), (400_000, "5 days")],
)
def test_times_in_words(seconds, text):
    assert duration(seconds) == text


def test_variants_of_octrees_share_one_place_in_an_epoch(here, tmp_path):
    assert recognize(str(write_variants(tmp_path))).data["balance"] == "family"
    assert "balance" not in recognize("octrees").data


def test_octrees_are_all_that_is_needed(here, tmp_path):
    small = ("--set", "model.hidden_dim=24", "--set", "model.num_heads=2")
    small += ("--set", "model.num_layers=1", "--set", "sampling.steps=1")
    (here / "octrees" / "val.jsonl").rename(tmp_path / "val.jsonl")
    (here / "octrees" / "test.jsonl").rename(tmp_path / "test.jsonl")
    try:
        done = invoke(
            *("train", "--data", "octrees", "--steps", 1, "--batch-size", 2, "--device", "cpu"),
            *("-o", tmp_path / "run", *small),
        )
    finally:
        for name in ("val.jsonl", "test.jsonl"):
            (tmp_path / name).rename(here / "octrees" / name)
    assert done.code == 0, done.err
    assert "octrees: 5 octrees, none is held out" in done.err
    assert "2 classes: chair 3, table 2" in done.err
