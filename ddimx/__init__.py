"""Denoising diffusion implicit models for images and 3D shapes, from one command line.

    import ddimx
    model = ddimx.load_model("emoji")
    images = ddimx.sample(model, steps=50, count=4)  # float32 [4, 3, 32, 32] in [-1, 1]

The names below load torch when they are first used, not on import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Model",
    "Step",
    "__version__",
    "encode",
    "inpaint",
    "interpolate",
    "load_model",
    "sample",
    "stream",
]

if TYPE_CHECKING:
    from .api import Model, Step, encode, inpaint, interpolate, load_model, sample, stream


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        from .errors import check_links

        check_links()
        return getattr(import_module(".api", __name__), name)
    raise AttributeError(f"module 'ddimx' has no attribute '{name}'")
