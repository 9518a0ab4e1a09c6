"""A network compiled by torch.compile: at one size of batch, into a folder of our own."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .costs import compiled_code, engine_folder, private_folder

CACHE = "TORCHINDUCTOR_CACHE_DIR"  # which a user may have set: then his folder is taken


def refusal(device: torch.device) -> str | None:
    """Return why networks cannot be compiled for a device here, None if nothing speaks against it.

    Only what is quick to see: a compilation can still fail.
    """
    if device.type not in ("cpu", "cuda"):
        return f"torch.compile is not tried on {device.type.upper()}"
    if sys.platform == "win32":
        return "torch.compile is not tried on Windows"
    if find_spec("torch._inductor") is None:
        return "this PyTorch comes without its compiler, torch._inductor"
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "Triton is not installed"
        names = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
        language = "C"
    else:
        names = [os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")]
        language = "C++"
        header = Path(sysconfig.get_paths()["include"]) / "Python.h"
        if not header.is_file():
            return f"Python's headers are not installed (no {header.name})"
    if not any(map(shutil.which, names)):
        variable = "CC" if language == "C" else "CXX"
        return f"there is no {language} compiler ({' or '.join(names)}; {variable} names another)"
    return None


def compiled(network: nn.Module) -> Callable[..., Tensor]:
    """Return a function that computes what a network does, compiled at its first call.

    The network is called without gradients and its weights never change: on both kinds of device
    they are packed once, as constants of the compiled code ("freezing").
    """

    def call(*arguments: Tensor) -> Any:
        return network(*arguments)

    # The compiler counts how often a piece of code was compiled, and gives up after eight times,
    # whichever networks and sizes these were for. So every network has a piece of its own.
    call.__code__ = call.__code__.replace()
    function: Callable[..., Tensor] = torch.compile(call, dynamic=False, options={"freezing": True})
    return function


def in_parts(function: Callable[..., Tensor], size: int, arguments: tuple[Tensor, ...]) -> Tensor:
    """Return what a function of ``size`` samples makes of any number n of them, [n, ...].

    They are divided into parts of that size. The last is filled up with copies of its last sample,
    whose results are dropped: that costs less than to compile for another size.

    Args:
        function: of tensors [size, ...]; a sample's result must not depend on the others.
        size: as many as it takes.
        arguments: each [n, ...].
    """
    results = []
    for first in range(0, len(arguments[0]), size):
        part = [value[first : first + size] for value in arguments]
        count = len(part[0])
        if count < size:
            part = [torch.cat([v, v[-1:].expand(size - count, *v.shape[1:])]) for v in part]
        if part[0].dim() == 4:
            part[0] = part[0].contiguous(memory_format=torch.channels_last)
        results.append(function(*part)[:count])
    return results[0] if len(results) == 1 else torch.cat(results)


@contextmanager
def code_folder() -> Iterator[None]:
    """Let the compiler keep its code in our folder meanwhile: machine code, which it runs.

    Where none of our own can be had, it is a temporary one, which the process removes at its end.
    """
    before = os.environ.get(CACHE)
    if _user_set(before):
        yield
        return
    folder = private_folder(engine_folder()) and private_folder(compiled_code())
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="ddimx-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[CACHE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[CACHE]
        else:
            os.environ[CACHE] = before


def forget_code() -> None:
    """Remove all compiled code that we keep, since it may be damaged."""
    if not _user_set(os.environ.get(CACHE)):
        with suppress(OSError):
            shutil.rmtree(compiled_code())


def _user_set(folder: str | None) -> bool:
    """Return whether a folder for compiled code is the user's choice.

    The compiler itself sets the variable when it is imported: to a folder in /tmp of a name that
    anybody can foresee.
    """
    if folder is None:
        return False
    try:
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir
    except ImportError:
        return True
    return os.path.abspath(folder) != os.path.abspath(default_cache_dir())
