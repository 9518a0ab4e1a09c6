"""Hostile files as they were found, through the readers that verbs use: one error, soon."""

import json
import re

import numpy as np
import pytest
import torch

from ddimx.cli.app import app
from ddimx.config_file import dump_yaml, load_config
from ddimx.data.images.npz import NpzSource
from ddimx.errors import DdimxError, UsageError
from ddimx.evaluation.fid.frechet import read_statistics
from ddimx.octree.file import holds_tokens, read_shape
from ddimx.runs.record import NAME
from ddimx.sampling import manifest
from ddimx.sampling.run import clear, load_init_noise
from ddimx.solvers.plan_file import read_plan
from ddimx.weights.locate.source import read_any
from ddimx.weights.model import load_model
from tests.fuzz import targets_runs as runs
from tests.fuzz import targets_shapes as shapes
from tests.fuzz import targets_weights as good
from tests.fuzz.zips import bomb, packed, spanned, stored, unpacked

from .test_arrays import npy
from .test_yaml_text import LAUGHS

FIRST = "down.0.block.0.conv1.weight"


def refuses(read, *arguments, match: str = "", kind: type[DdimxError] = DdimxError):
    with pytest.raises(kind, match=match) as caught:
        read(*arguments)
    assert len(str(caught.value)) < 6000


# Weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"down.999999999.block.0.conv1.weight": t[FIRST]}), "not part of"),
        (lambda t: t.update({f"down.{'9' * 5000}.block.0.conv1.weight": t[FIRST]}), "not part of"),
        (lambda t: t.update({f"down.0.block.{'9' * 5000}.conv1.weight": t[FIRST]}), "not part of"),
        (lambda t: t.update({"conv_in.weight": torch.zeros(0, 3, 3, 3)}), "convolutions of shape"),
        (lambda t: t.update({FIRST: torch.zeros(())}), "convolutions of shape"),
        (lambda t: t.update({FIRST: torch.zeros(1).expand(10**9, 4, 3, 3)}), "more than the file"),
        (lambda t: t.update({FIRST: t[FIRST].to(torch.complex64)}), "complex64"),
        (lambda t: t.update({FIRST: t[FIRST].to_sparse()}), "sparse"),
        (lambda t: t.update({FIRST: t[FIRST].to("meta")}), "meta"),
        (lambda t: t.pop("conv_out.weight"), "not the UNet"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_a_pth(tmp_path, change, message, zipped):
    tensors = good.tensors(good.images())
    change(tensors)
    path, config = tmp_path / "model.pth", tmp_path / "plain.yml"
    config.write_text(dump_yaml(good.images()))
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)

    def load():
        load_model(path, device="cpu", config=config)

    refuses(load, match=message)


def test_zips_of_torch_save(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(good.tensors(good.images()), path)
    whole = path.read_bytes()
    assert read_any(path, None).architecture.ch == 4
    path.write_bytes(spanned(whole))
    refuses(read_any, path, None, match="several disks")
    members = [stored(name, content) for name, content in unpacked(whole)]
    path.write_bytes(packed([*members, bomb("archive/data/99", 300)]))
    refuses(read_any, path, None, match=r"unpacks to 30\dM.*--limit-memory")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ddimx.json", lambda text: "null", "expected settings in braces"),
        ("ddimx.json", lambda text: "[" * 100_000, "deeper than 64"),
        ("unet/config.json", lambda text: "null", "expected settings in braces"),
        ("unet/config.json", lambda text: '{"a":' * 5000 + "1" + "}" * 5000, "deeper than 64"),
        ("scheduler/scheduler_config.json", lambda text: "[]", "expected settings in braces"),
    ]
    + [
        ("unet/config.json", lambda text, k=key, v=value: changed(text, k, v), message)
        for key, value, message in [
            ("layers_per_block", 10**12, "1000000000000 blocks on each of 2 levels"),
            ("norm_num_groups", 10**12, "must divide block_out_channels"),
            ("block_out_channels", [10**12, 2 * 10**12], "2000000000000 channels"),
            ("block_out_channels", [4] * 5000, "differ in length"),
            ("in_channels", 10**12, "in_channels"),
            ("down_block_types", [{"a": ["b" * 10_000] * 1000}] * 2, "a list is needed"),
            ("act_fn", "x" * 100_000, "act_fn"),
        ]
    ]
    + [
        (
            "scheduler/scheduler_config.json",
            lambda text: changed(text, "num_train_timesteps", 10**12),
            "num_train_timesteps is 1000000000000; 1 to 1000000",
        )
    ],
)
def test_diffusers_folders(tmp_path, name, change, message):
    good.make_diffusers(tmp_path)
    path = tmp_path / "model" / name
    path.write_text(change(path.read_text()))
    if name != "ddimx.json":
        (tmp_path / "model" / "ddimx.json").unlink()
    refuses(good.read_diffusers, tmp_path, match=message)


def changed(text: str, key: str, value: object) -> str:
    return json.dumps({**json.loads(text), key: value})


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("model", "num_res_blocks", 10**12, "1000000000000 blocks"),
        ("model", "ch", 2 * 10**12, "channels, in a file"),
        ("model", "patch_size", 10**6, "not divisible by"),
        ("model", "ch_mult", [1] * 1000, "1000 levels"),
        ("model", "norm_groups", 10**12, "not divisible by norm_groups"),
        ("model", "classes", [f"c{i}" for i in range(10**5)], "missing: class_embedding"),
        ("diffusion", "num_diffusion_timesteps", 10**12, "less than or equal to 1000000"),
        ("data", "image_size", "x" * 10**6, "write pixels as 64"),
        ("data", "image_size", 2**62, "65536 a side are the most"),
    ],
)
def test_counts_in_a_header(tmp_path, section, key, value, message):
    path = tmp_path / "model.safetensors"
    good.write_model(path, good.IMAGES)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    config = json.loads(header["__metadata__"]["ddimx.config"])
    config[section][key] = value
    header["__metadata__"]["ddimx.config"] = json.dumps(config)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    refuses(good.read_native, tmp_path, match=message)


@pytest.mark.parametrize(("key", "value"), [("num_layers", 10**12), ("hidden_dim", 2**40)])
def test_counts_of_octrees(tmp_path, key, value):
    from ddimx.config_file import validate
    from ddimx.weights.model import check_fits

    tree = {**good.OCTREES, "model": {**good.OCTREES["model"], key: value}}
    tensors = good.tensors(validate(good.OCTREES, "octrees"))
    refuses(check_fits, validate(tree, "octrees"), tensors, "model", match="in a file of")


@pytest.mark.parametrize(
    "info",
    [
        "null",
        "[]",
        '{"step": "a"}',
        '{"step": -1}',
        '{"losses": 5}',
        '{"grad_norm": "~"}',
        "[" * 9999,
    ],
)
def test_the_history_of_a_checkpoint(tmp_path, info):
    from ddimx.weights.formats.native import read_header

    good.make_checkpoint(tmp_path)
    path = next(tmp_path.glob("*.safetensors"))
    assert read_header(path).info["step"] == 3
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["ddimx.info"] = info
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    refuses(read_header, path, match="its header is damaged")


def test_the_option_raises_the_bound(tmp_path, monkeypatch):
    """On the command line, and by the variable that it sets for the processes that are started."""
    from ddimx.untrusted import limits
    from tests.sampling import invoke

    runs.make_plan(tmp_path)
    monkeypatch.setenv(limits.VARIABLE, "1K")
    refuses(read_plan, tmp_path / "plan.json", match="--limit-memory", kind=UsageError)
    done = invoke("info", tmp_path / "absent", "--limit-memory", "64M")
    assert done.code == 2
    assert limits.memory() == 64 << 20
    read_plan(tmp_path / "plan.json")
    done = invoke("info", tmp_path / "absent", "--limit-memory", "many")
    assert "--limit-memory many: write a size such as 800M or 4G" in done.err


# Plans and configurations


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("clip", []), ("clip", -1), ("clip", 0), ("clip", True), ("prediction", "z")),
        *(("label", None), ("notes", [1]), ("notes", 5), ("t", [[[]]]), ("b", "x"), ("r", [{}])),
    ],
)
def test_values_of_a_plan(tmp_path, key, value):
    runs.make_plan(tmp_path)
    path = tmp_path / "plan.json"
    plan = json.loads(path.read_text())
    plan["plan"][key] = value
    path.write_text(json.dumps(plan))
    refuses(read_plan, path, match="damaged", kind=UsageError)


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"kind":' * 100_000, "[" * 500 + "]" * 500])
def test_deep_plans(tmp_path, deep):
    (tmp_path / "plan.json").write_text(deep)
    refuses(read_plan, tmp_path / "plan.json", match="deeper than 64", kind=UsageError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 50_000, "deeper than 64"),
        ("- " * 50_000, "deeper than 64"),
        (LAUGHS, "aliases included"),
        ("data: &a [*a]\n", "contains itself"),
        ("data: 2001-99-99\n", "not valid YAML"),
        ("data: [" + "x, " * 20_000 + "]\n", r"given: \['x', 'x'"),
        ("data: {dataset: FOLDER, image_size: 8, channels: " + "z" * 100_000 + "}\n", "valid int"),
        ("data: {" + ", ".join(f"k{i}: 1" for i in range(9000)) + "}\n", "more"),
        ("? '" + "k" * 100_000 + "'\n: 1\n", "unknown key"),
    ],
)
def test_configurations(tmp_path, text, message):
    (tmp_path / "a.yml").write_text(text)
    refuses(load_config, tmp_path / "a.yml", match=message, kind=UsageError)


# Arrays


@pytest.mark.parametrize(
    "shape", ["(1152921504606846976, 3, 8, 8)", f"({'9' * 5000},)", "(0, 3, 8, 8)", "(1, 3, 8, 9)"]
)
def test_init_noise(tmp_path, shape):
    (tmp_path / "x.npy").write_bytes(npy(shape, data=bytes(4 * 3 * 8 * 9)))
    refuses(load_init_noise, tmp_path / "x.npy", (3, 8, 8), match="--init-noise", kind=UsageError)


def test_octrees(tmp_path):
    shapes.make_octree(tmp_path)
    path = tmp_path / "shape.npz"
    fields = dict(np.load(path))
    tokens = fields["tokens"]
    cases = {
        "declares": {"tokens.npy": npy("(1152921504606846976,)", "'|u1'")},
        "without 'tokens'": {"tokens/": b""},
        "tokens: not an array": {"tokens": b"bytes"},
        "not readable|not a zip": None,
    }
    for message, members in cases.items():
        content = (
            b"PK\x03\x04"
            if members is None
            else packed([stored(name, data) for name, data in members.items()])
        )
        path.write_bytes(content)
        refuses(read_shape, path, match=message)
    # A bomb that nobody needs is not read; one in a field's place is refused.
    parts = [stored(f"{name}.npy", npy_of(value)) for name, value in fields.items()]
    path.write_bytes(packed([*parts, bomb("notes.npy", 300), bomb("LICENSE.TXT", 300)]))
    assert (read_shape(path).tree.tokens() == tokens).all()
    assert holds_tokens(path)
    without = [part for part in parts if part.name != b"mask.npy"]
    path.write_bytes(packed([*without, bomb("mask.npy", 300)]))
    refuses(read_shape, path, match="unpacks to 30")


def npy_of(array: np.ndarray) -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_statistics_and_images(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2), about=np.array("[" * 9999))
    refuses(read_statistics, path, match="'about' or 'count' is damaged")
    np.savez(path, mu=np.zeros(2, "M8[s]"), sigma=np.eye(2))
    refuses(read_statistics, path, match="mu and sigma are datetime64")
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2), count=np.zeros(3))
    refuses(read_statistics, path, match="'about' or 'count' is damaged")
    path.write_bytes(packed([bomb("mu.npy", 300)]))
    refuses(read_statistics, path, match="unpacks to 300M")
    path.write_bytes(packed([bomb("images.npy", 300)]))
    refuses(lambda: NpzSource(path, held_out=False), match="unpacks to 300M")


# Runs


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("count", 10**12), ("count", "a"), ("count", None), ("status", "x"), ("files", 1)),
        *(
            ("files", {}),
            ("identity", {"dtype": []}),
            ("identity", {"start_index": 10**12}),
            ("asked", []),
        ),
        *(("seconds", "a"), ("identity", {"format": "x/../y"})),
    ],
)
def test_manifests(tmp_path, key, value):
    record = {"status": "complete", "count": 2, "files": [], "identity": {}, "asked": {}}
    path = tmp_path / NAME
    path.write_text(json.dumps(record))
    assert manifest.read(tmp_path) == record
    path.write_text(json.dumps({**record, key: value}))
    refuses(manifest.read, tmp_path, match=f"damaged manifest .{key}")


def test_clearing_a_run_of_four_billion_samples_looks_at_what_is_there(tmp_path):
    names = ["000001.png", "4294967295.png", "000001.npy", "1.png", "a.png", "000000.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    before = {"count": 2**32 - 1, "identity": {"start_index": 1, "format": "png"}}
    clear(tmp_path, before)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "000000.png",
        "000001.npy",
        "1.png",
        "a.png",
    ]


@pytest.mark.parametrize(
    "asked", [{"steps": "a"}, {"steps": True}, {"eta": []}, {"model": None}, {"invariant": 1}]
)
def test_remembered_options(tmp_path, asked):
    def resume(folder):
        app(["sample", "--resume", str(folder)], standalone_mode=False)

    record = {"status": "running", "count": 2, "identity": {}, "asked": asked}
    (tmp_path / NAME).write_text(json.dumps(record))
    refuses(resume, tmp_path, match="manifest is damaged", kind=UsageError)


def test_parts_of_an_array(tmp_path):
    runs.make_array_run(tmp_path)
    part = next((tmp_path / "run" / "parts").glob("*.npz"))
    whole = dict(np.load(part))
    wrong = [whole["values"][:, :, :1], whole["values"].astype(np.int8), whole["values"][0]]
    for values in (*wrong, whole["values"][:0]):
        np.savez(part, **{**whole, "values": values})
        refuses(runs.read_array_run, tmp_path, match=re.escape(part.name))
    part.write_bytes(b"PK\x03\x04")
    refuses(runs.read_array_run, tmp_path, match="the same command draws it again")
    part.unlink()
    runs.read_array_run(tmp_path)
    assert (tmp_path / "run" / "samples.npy").is_file()
