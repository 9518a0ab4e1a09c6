"""Compile kernels for cards that are not here, and read what they would cost.

``report`` runs this file in a process of its own, since the tests' process may have Triton in
interpreter mode. A job is the launch that a kernel's own code prepared (on meta tensors), so that
what is compiled here is what would run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

ALL_TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
# The gate compiles for one card, .ci/full for all of both makers.
FULL = os.environ.get("DDIMX_FULL") == "1"
TARGETS = {name: target for name, target in ALL_TARGETS.items() if FULL or name == "sm_90"}
TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.bool: "*i1",
    torch.uint8: "*u8",
}
# Shared memory that a program may have. sm_80 stands for every card without a row of its own; the
# least of its kind, consumer cards, have 99 KiB.
SHARED = {"sm_80": 101376, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}
INTEGER = re.compile(
    r"\b(IMAD|IADD3?|LOP3|SHF|ISETP|IABS|LEA|POPC|BMSK|SGXT|VIADD|IMNMX|PRMT|UIMAD|UIADD3?|ULOP3|"
    r"USHF|ULEA|UISETP)(\.\S+)?\b"
)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a tensor without data, for a launch that is only compiled."""
    return torch.empty(shape, dtype=dtype, device="meta")


def against_record(
    path: Path, found: dict[tuple[str, ...], dict[str, Any]], names: tuple[str, ...], *, merge: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return these counts by "case | target", and those on record; the caller compares them.

    What is on record for other cards than ``TARGETS`` is left out. DDIMX_RECORD=1 writes the record
    first: with ``merge``, or where not all cards are compiled for, beside what else it holds. With
    another Triton than the record's, the test is skipped.
    """
    import pytest
    import triton

    ours = {
        " | ".join(key): {name: count[name] for name in names if name in count}
        for key, count in found.items()
    }
    if os.environ.get("DDIMX_RECORD") == "1":
        held = json.loads(path.read_text(encoding="utf-8"))["counts"] if path.is_file() else {}
        everything = sorted(((held if merge or not FULL else {}) | ours).items())
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(count)}" for key, count in everything)
        text = f'{{\n "triton": "{triton.__version__}",\n "counts": {{\n{lines}\n }}\n}}\n'
        path.write_text(text, encoding="utf-8")
    recorded = json.loads(path.read_text(encoding="utf-8"))
    if recorded["triton"] != triton.__version__:
        pytest.skip(f"recorded with Triton {recorded['triton']}, this is {triton.__version__}")
    others = ALL_TARGETS.keys() - TARGETS.keys()
    return ours, {
        key: count
        for key, count in recorded["counts"].items()
        if not others & set(key.split(" | "))
    }


def job(
    kernel: str,
    arguments: dict[str, Any],
    constants: dict[str, Any],
    target: str,
    *,
    free: tuple[str, ...] = (),
    **options: Any,
) -> dict[str, Any]:
    """Describe one compilation as JSON values.

    Arguments are typed and specialised as Triton's launcher would do it: pointers are aligned, an
    integer that 16 divides is known to be so, and a 1 is a constant.

    Args:
        kernel: "package.module:function".
        free: integer arguments that the kernel asks not to specialise.
    """
    signature, values, divisible = {}, dict(constants), []
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            divisible.append(name)
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1 and name not in free:
            values[name] = 1
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and name not in free:
                divisible.append(name)
    described = {"kernel": kernel, "signature": signature, "constants": values}
    return described | {"divisible": divisible, "target": target, "options": options}


def report(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compile every job and return its registers, spills, shared memory and instructions."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = str(Path(__file__).resolve().parents[2])
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-m", "tests.kernels.compiled"],
            input=json.dumps(jobs),
            env=environment | {"TRITON_CACHE_DIR": cache, "PYTHONPATH": root},
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    reports: list[dict[str, Any]] = json.loads(done.stdout)
    return reports


def compile_one(job: dict[str, Any]) -> dict[str, Any]:
    """Compile one job in this process."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, name = job["kernel"].split(":")
    function = getattr(import_module(module), name)
    names = function.arg_names
    constants = {(names.index(k),): v for k, v in job["constants"].items()}
    signature = {n: job["signature"].get(n, "constexpr") for n in names}
    attrs = {(names.index(n),): [["tt.divisibility", 16]] for n in job["divisible"]}
    source = ASTSource(function, signature, constants, attrs)
    backend, arch, warp = ALL_TARGETS[job["target"]]
    done = triton.compile(source, target=GPUTarget(backend, arch, warp), options=job["options"])
    found = {"target": job["target"], "shared": done.metadata.shared, "ttir": done.asm["ttir"]}
    return found | (_amd(done.asm) if backend == "hip" else _nvidia(done.asm, job["target"]))


def _nvidia(asm: dict[str, Any], target: str) -> dict[str, Any]:
    ptx = asm["ptx"]
    arch = re.search(r"\.target (\S+)", ptx)[1].rstrip(",")
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "k.ptx", Path(folder) / "k.cubin"
        source.write_text(ptx)
        command = [_tool("ptxas", target), "-v", f"--gpu-name={arch}", source, "-o", cubin]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        cubin.write_bytes(asm["cubin"])
        code = [_tool("nvdisasm", target), "-c", cubin]
        sass = subprocess.run(code, capture_output=True, text=True, check=True).stdout
    lines = [line for line in sass.splitlines() if re.search(r"/\*[0-9a-f]{4,}\*/", line)]
    return {
        "registers": int(re.search(r"Used (\d+) registers", log)[1]),
        "spills": [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", log)],
        "integer": sum(bool(INTEGER.search(line)) for line in lines),
        "instructions": sum("NOP" not in line for line in lines),
        "loads_128": sum("LDG.E.128" in line for line in lines),
        "loads": sum("LDG.E" in line for line in lines),
        "wgmma": "wgmma.mma_async" in ptx or "tcgen05.mma" in ptx,
    }


def _amd(asm: dict[str, Any]) -> dict[str, Any]:
    text = asm["amdgcn"]

    def count(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", text)[1])

    return {
        "registers": count("vgpr_count"),
        "spills": [count("vgpr_spill_count"), count("sgpr_spill_count")],
        "loads_128": len(re.findall(r"(?:buffer|global)_load_dwordx4", text)),
    }


def _tool(name: str, target: str) -> str:
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    special = folder / f"{name}-blackwell"
    return str(special if target == "sm_100" and special.exists() else folder / name)


if __name__ == "__main__":
    print(json.dumps([compile_one(job) for job in json.load(sys.stdin)]))
