"""ddimx's DDIM inside diffusers' pipelines: ``attach(pipe)``, or ``DDIMScheduler`` by itself.

Needs ``pip install 'ddimx[hub]'``.
"""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import UsageError

if find_spec("diffusers") is None:
    raise UsageError("ddimx.integrations.diffusers needs diffusers: pip install 'ddimx[hub]'")

from .attach import attach
from .scheduler import DDIMScheduler

__all__ = ["DDIMScheduler", "attach"]
