"""A run that was begun on one kind of CPU goes on on another; invariant files are the same on each.

Other machines are this one with instructions switched off: NumPy, PyTorch, oneDNN, MKL and OpenBLAS
have environment variables for it. Where a CPU has none of these instructions, both processes do the
same, and the tests say less.
"""

import pytest

from ddimx.sampling import manifest
from tests.sampling import image_names, invoke, manifest_of, state_of

OLDER = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512CD AVX512_SKX",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}


@pytest.mark.full
def test_a_run_goes_on_on_an_older_machine(run_cli, tiny_model, tmp_path):
    """unipc's coefficients differ there in the last bit; and "auto" might take another dtype."""
    command = ("sample", "-m", tiny_model, "--device", "cpu", "--steps", 10, "--spacing", "ddim")
    command += ("--guidance", 1, "--solver", "unipc:2", "--out", "r", "-q")
    assert run_cli(*command, "-n", 1, "--dtype", "bf16").returncode == 0
    record, files = manifest_of(tmp_path / "r"), state_of(tmp_path / "r")
    done = run_cli(*command, "-n", 2, env=OLDER)
    assert done.returncode == 0, done.stderr
    now = manifest_of(tmp_path / "r")
    assert (now["count"], now["dtype"]) == (2, record["dtype"])
    assert now["identity"] == record["identity"]
    assert state_of(tmp_path / "r")["000000.png"] == files["000000.png"]


def test_auto_means_for_a_run_the_dtype_it_was_begun_in(tiny_model, tmp_path):
    for dtype in ("bf16", "fp32"):
        sampled_in(tiny_model, dtype, tmp_path / dtype)
        for asked in (None, "auto"):
            assert manifest.dtype_for(asked, tmp_path / dtype, "cpu") == dtype
        assert manifest.dtype_for("fp16", tmp_path / dtype, "cpu") == "fp16"
        done = invoke("sample", "-m", tiny_model, "--steps", 1, "-n", 2, "-o", tmp_path / dtype)
        assert done.code == 0, done.err
        assert manifest_of(tmp_path / dtype)["dtype"] == {"name": dtype, "reason": "asked for"}
    assert manifest.dtype_for(None, tmp_path / "absent", "cpu") == "auto"
    assert manifest.dtype_for(None, None, "cpu") == "auto"


def sampled_in(model, dtype, folder):
    options = ("--steps", 1, "-n", 1, "--device", "cpu", "--dtype", dtype, "-o", folder)
    assert invoke("sample", "-m", model, *options).code == 0


@pytest.mark.full
def test_invariant_files_do_not_depend_on_the_company(run_cli, tiny_model, tmp_path):
    command = ("sample", "-m", tiny_model, "--device", "cpu", "--steps", 3, "--dtype", "fp32")
    command += ("--invariant", "--format", "webp", "-q")
    assert run_cli(*command, "-n", 9, "--out", "all", env=OLDER).returncode == 0
    options = ("--start-index", 5, "-n", 3, "--out", "some")
    assert run_cli(*command, *options, env=OLDER).returncode == 0
    for name in image_names(range(5, 8), "webp"):
        assert (tmp_path / "some" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()
