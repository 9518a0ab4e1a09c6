"""``--profile``: every second belongs to one part, and every part of the network to one kind."""

import gzip
import json
import tempfile

import pytest
import torch

import ddimx
from ddimx.runs.run import Stopped
from ddimx.sampling.kinds import MARK, Split, kind_of
from ddimx.sampling.profile import ROWS, TRACE, Profile, _anonymous
from ddimx.timing import timed
from tests.models.octree.small import octree_config, write_model
from tests.sampling import manifest_of, names_in, pictures, sample, sampled

ROUNDING = 1e-6  # of each number of a report


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddimx.sampling.memory.free_bytes", lambda _: None)


def check_sums(report):
    """Parts sum to the whole, kinds to their part; a share is the seconds over the whole."""
    total, parts = report["seconds"], report["parts"]
    rows = [*parts.values(), *parts["network"].get("kinds", {}).values()]
    for row in rows:
        assert row["share"] == pytest.approx(row["seconds"] / total, abs=ROUNDING * (1 + 2 / total))
    slack = len(rows) * ROUNDING
    assert sum(row["seconds"] for row in parts.values()) == pytest.approx(total, abs=slack)
    assert sum(row["share"] for row in parts.values()) == pytest.approx(1, abs=slack)
    kinds = parts["network"]["kinds"].values()
    assert sum(row["seconds"] for row in kinds) == pytest.approx(
        parts["network"]["seconds"], abs=slack
    )


def test_a_run_says_where_its_time_went(tiny_model, tmp_path):
    plain = sampled(tiny_model, "-n", 3, "--batch-size", 2, "--steps", 7, "--eta", 1, "--out", "a")
    assert "where" not in plain.err
    options = ("-n", 3, "--batch-size", 2, "--steps", 7, "--eta", 1, "--out", "b", "--profile")
    done = sampled(tiny_model, *options, "--json")
    record = manifest_of(tmp_path / "b")
    report = record["profile"]
    assert json.loads(done.out)["profile"] == report
    check_sums(report)
    parts = report["parts"]
    assert {"loading", "network", "update", "noise", "decoding", "files", "syncing"} <= {*parts}
    assert (parts["network"]["calls"], parts["update"]["calls"]) == (14, 14)  # 2 batches
    assert parts["decoding"]["calls"] == 2
    kinds = parts["network"]["kinds"]
    assert {"convolution", "normalization", "activation", "attention", "linear"} <= {*kinds}
    network = ddimx.load_model(tiny_model, device="cpu").network
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert kinds["convolution"]["calls"] == len(convolutions)
    # What the measurement took is seconds beside them.
    assert report["profiling"] > 0
    assert "profiling" not in parts
    # The last rows of a short run; in a long one those after which nothing is looked up any more.
    assert report["rows"] == {"batch": 1, "first": 7 - ROWS, "last": 6}
    # It changes neither the pictures nor what the run is.
    assert (pictures(tmp_path / "a", range(3)) == pictures(tmp_path / "b", range(3))).all()
    before = manifest_of(tmp_path / "a")
    assert record["identity"] == before["identity"]
    assert "profile" not in before
    assert "profile" not in record["asked"]
    # The table, which is read by people.
    lines = done.err.splitlines()
    assert lines[0].startswith("engine: eager (")
    assert lines[1].startswith("where ")
    assert any(line.split()[:1] == ["convolution"] for line in lines)
    assert any("rows 3 to 6 of batch 1;" in line for line in lines)
    assert not [line for line in lines if "USDT" in line]


def test_a_trace_names_neither_the_machine_nor_its_folders(tiny_model, tmp_path):
    sampled(tiny_model, "-n", 1, "--steps", 2, "--profile", "--out", "r")
    trace = json.loads(gzip.decompress((tmp_path / "r" / TRACE).read_bytes()))
    assert not {"host_name", "traceName"} & {*trace}
    assert tempfile.gettempdir() not in json.dumps(trace)
    event = {"name": "triton_1", "args": {"kernel_file": "/home/me/1.py", "stream": 7}}
    trace = json.loads(_anonymous({"host_name": "mine", "traceEvents": [event]}))
    assert trace == {"traceEvents": [{"name": "triton_1", "args": {"stream": 7}}]}


def test_the_trace_holds_some_rows_and_belongs_to_the_run(tiny_model, tmp_path):
    def trace():
        return json.loads(gzip.decompress((tmp_path / "r" / TRACE).read_bytes()))["traceEvents"]

    sampled(tiny_model, "-n", 3, "--batch-size", 2, "--steps", 7, "--profile", "--out", "r")
    names = [event.get("name") for event in trace()]
    assert names.count(MARK + "network") == names.count(MARK + "update") == ROWS
    assert manifest_of(tmp_path / "r")["files"][-1] == TRACE
    # More samples without it: what was measured stays, and belongs to the run still.
    report = manifest_of(tmp_path / "r")["profile"]
    sampled(tiny_model, "-n", 4, "--resume", "r", "--steps", 7)
    record = manifest_of(tmp_path / "r")
    assert record["profile"] == report
    assert TRACE in record["files"]
    # With it too, where no sample is missing: the trace is of what was measured before.
    done = sample(tiny_model, "--resume", "r", "--steps", 7, "--profile")
    assert "first call" not in done.err
    assert "where " in done.err
    assert manifest_of(tmp_path / "r")["profile"] == report
    assert MARK + "network" in [event.get("name") for event in trace()]
    sampled(tiny_model, "-n", 1, "--steps", 1, "--overwrite", "--out", "r")
    assert names_in(tmp_path / "r") == ["000000.png", "grid.png", "manifest.json"]


def test_a_run_that_is_stopped_says_where_its_time_went_so_far(tiny_model, tmp_path, monkeypatch):
    def stop(*_):
        raise Stopped

    monkeypatch.setattr("ddimx.runs.image_sink.ImageSink.write", stop)
    done = sample(tiny_model, "-n", 2, "--steps", 7, "--profile", "--out", "r")
    assert done.code == 130
    record = manifest_of(tmp_path / "r")
    assert record["status"] == "interrupted"
    check_sums(record["profile"])
    assert (tmp_path / "r" / TRACE).is_file()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert sample(tiny_model, "--resume", "r").code == 0
    assert manifest_of(tmp_path / "r")["files"] == ["000000.png", "000001.png", TRACE]


def test_octrees_have_kinds_of_their_own_and_end_with_the_last_rows(tmp_path):
    model = ddimx.load_model(write_model(tmp_path / "m.safetensors", octree_config()), device="cpu")
    plain = ddimx.sample(model, count=2, steps=2)
    with Profile() as profile:
        trees = ddimx.sample(model, count=2, steps=2)
    assert [t.masks[-1].tolist() for t in trees] == [t.masks[-1].tolist() for t in plain]
    report = profile.report()
    check_sums(report)
    parts = report["parts"]
    assert {"attention", "linear", "embedding", "normalization"} <= {*parts["network"]["kinds"]}
    # Of the only batch all rows.
    assert report["rows"] == {"batch": 1, "first": 0, "last": parts["network"]["calls"] - 1}
    assert str(profile).splitlines()[0].startswith("where ")


def steps_of(rows, compiling=()):
    """Steps whose network multiplies; in these rows it is compiled before."""
    for row in range(rows):
        with timed("network"):
            if row in compiling:
                with timed("compiling"):
                    pass
            torch.ones(2) @ torch.ones(2)
        yield row


def rows_of(profile):
    return tuple(profile.report()["rows"][name] for name in ("batch", "first", "last"))


@pytest.mark.parametrize(
    ("rows", "taken", "recorded"),
    [(1, 1, (1, 0, 0)), (2, 2, (1, 1, 1)), (3, 2, (1, 1, 1)), (9, 6, (1, 4, 5)), (9, 9, (1, 4, 7))],
)
def test_a_run_may_be_short_or_end_early(rows, taken, recorded):
    with Profile("cpu") as profile:
        traced = profile.traced(steps_of(rows), rows, even=True)
        assert [next(traced) for _ in range(taken)] == list(range(taken))
        traced.close()
        assert list(profile.traced(steps_of(rows), rows, even=True)) == list(range(rows))
    assert rows_of(profile) == recorded  # once is enough


def test_what_is_compiled_is_recorded_anew():
    with Profile("cpu") as profile:
        assert len(list(profile.traced(steps_of(20, [3]), 20, even=True))) == 20
        assert rows_of(profile) == (1, 4, 7)  # after it
        list(profile.traced(steps_of(20, [5]), 20, even=True))
        assert rows_of(profile) == (2, 6, 9)  # in a later batch
        list(profile.traced(steps_of(9, [8]), 9, even=True))
        assert rows_of(profile) == (2, 6, 9)
        list(profile.traced(steps_of(9), 9, even=True))
    assert rows_of(profile) == (4, 4, 7)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("mkldnn::_convolution_pointwise", "convolution"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_nhwckrsc_nhwc", "convolution"),
        ("cpp_fused_native_group_norm_silu_3", "normalization"),
        ("triton_red_fused_native_group_norm_0", "normalization"),
        ("ddimx::group_norm_silu", "normalization"),
        ("whole_forward", "normalization"),
        ("rest_backward", "normalization"),
        ("aten::native_layer_norm", "normalization"),
        ("aten::silu", "activation"),
        ("triton_poi_fused_silu_1", "activation"),
        ("aten::scaled_dot_product_attention", "attention"),
        ("ddimx::segment_attention_loop", "attention"),
        ("aten::bmm", "attention"),
        ("aten::addmm", "linear"),
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_NTN", "linear"),
        ("aten::copy_", "copies and layout"),
        ("Memcpy DtoD (Device -> Device)", "copies and layout"),
        ("void cudnn::ops::nchwToNhwcKernel<float>", "copies and layout"),
        ("aten::cat", "copies and layout"),
        ("aten::embedding", "embedding"),
        ("aten::upsample_nearest2d", "resizing"),
        ("aten::add_", "sums and products"),
        ("cpp_fused_add_mul_4", "fused by the compiler"),
        ("Torch-Compiled Region: 0/0", "fused by the compiler"),
        ("aten::searchsorted", "other"),
    ],
)
def test_names_tell_the_kind(name, kind):
    assert (kind_of(name) or "other") == kind


def event(name, ts, dur, cat="cpu_op", tid=1, **args):
    return {"ph": "X", "name": name, "ts": ts, "dur": dur, "cat": cat, "tid": tid, "args": args}


def test_on_a_cpu_the_outer_operation_counts_except_for_copies():
    split = Split(
        [
            event(MARK + "network", 0, 100, "user_annotation"),
            event("ddimx::attention", 10, 50),
            event("aten::addmm", 12, 20),  # a product of attention is attention
            event("aten::copy_", 40, 5),  # but a copy is a copy
            event("Torch-Compiled Region: 0/0", 60, 30),
            event("mkldnn::_convolution_pointwise", 65, 10),
            event("aten::addmm", 0, 100, tid=2),  # another thread's
            event(MARK + "update", 100, 10, "user_annotation"),
            event("aten::mul", 101, 4),
            event("aten::mul", 120, 9),  # of no part
            {"ph": "M", "name": "thread_name"},
        ]
    )
    assert split.time["network"] == {
        "attention": 45,
        "copies and layout": 5,
        "fused by the compiler": 20,
        "convolution": 10,
        "between operations": 20,
    }
    assert sum(split.shares("network").values()) == pytest.approx(1)
    assert split.count["network"]["attention"] == split.count["network"]["convolution"] == 1
    assert split.time["update"] == {"sums and products": 4, "between operations": 6}
    assert split.fused == {"Torch-Compiled Region: 0/0": 20}
    assert split.calls == {"network": 1, "update": 1}


def test_on_a_gpu_kernels_count_and_the_rest_is_waiting():
    split = Split(
        [
            event(MARK + "network", 0, 100, "user_annotation", **{"External id": 1}),
            event("aten::conv2d", 1, 10, **{"External id": 2}),
            event("aten::cudnn_convolution", 2, 8, **{"External id": 3}),
            event("cudaLaunchKernel", 3, 1, "cuda_runtime", **{"External id": 3}),
            event("some_kernel", 20, 40, "kernel", 7, **{"External id": 3}),
            event("Memcpy DtoD", 60, 5, "gpu_memcpy", 7, **{"External id": 3}),
            event(MARK + "network", 0, 100, "gpu_user_annotation", 7),  # the same span once more
            # A replayed graph names no operations.
            event("triton_poi_fused_native_group_norm_silu_2", 70, 10, "kernel", 7),
            event("triton_poi_fused_add_5", 80, 2, "kernel", 7, **{"External id": 1}),
            event("update_kernel", 85, 1, "kernel", 7),
            event("late", 150, 10, "kernel", 7),  # of no part
        ]
    )
    assert split.time["network"] == {
        "convolution": 40,
        "copies and layout": 5,
        "normalization": 10,
        "fused by the compiler": 2,
        "update": 1,
        "waiting for the host": 42,
    }
    assert [*split.fused] == ["triton_poi_fused_native_group_norm_silu_2", "triton_poi_fused_add_5"]


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_on_a_gpu_kernels_have_kinds_whether_they_are_replayed_or_not(engine, tiny_model):
    model = ddimx.load_model(tiny_model, device="cuda", dtype="fp32")
    options = {"count": 2, "steps": 12, "eta": 1.0, "engine": engine}
    plain = ddimx.sample(model, **options)
    with Profile() as profile:
        again = ddimx.sample(model, **options)
    assert torch.equal(again, plain)
    report = profile.report()
    check_sums(report)
    kinds = report["parts"]["network"]["kinds"]
    # What a graph replays is told by the kernels' names alone, which are cuDNN's.
    operations = set() if engine == "graph" else {"convolution", "normalization", "linear"}
    assert operations | {"waiting for the host"} <= {*kinds}
    assert len(kinds) > 2
    assert "update" not in kinds  # it is a part of its own, also where a graph holds both
    assert report["parts"]["update"]["seconds"] > 0
    assert rows_of(profile) == (1, 4, 7)
