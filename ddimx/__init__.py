"""Denoising diffusion implicit models for images and 3D shapes, from one command line.

    import ddimx
    model = ddimx.load_model("emoji")
    images = ddimx.sample(model, steps=50, count=4)  # float32 [4, 3, 48, 48] in [-1, 1]
    ddimx.to_pil(images)[0].save("first.png")
    trees = ddimx.sample("furniture", count=4, category="chair")
    ddimx.export(trees, "chairs", format="3dgs", preview=True)

The names below load torch when they are first used, not on import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

__all__ = [
    "Model",
    "Octree",
    "Profile",
    "SampleOptions",
    "Step",
    "TokenStep",
    "__version__",
    "encode",
    "export",
    "inpaint",
    "interpolate",
    "load_model",
    "sample",
    "sample_shapes",
    "stream",
    "stream_shapes",
    "to_pil",
]

if TYPE_CHECKING:
    from .api import (
        Model,
        Octree,
        Profile,
        SampleOptions,
        Step,
        TokenStep,
        encode,
        export,
        inpaint,
        interpolate,
        load_model,
        sample,
        sample_shapes,
        stream,
        stream_shapes,
        to_pil,
    )


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        from .errors import check_links

        check_links()
        return getattr(import_module(".api", __name__), name)
    raise AttributeError(f"module 'ddimx' has no attribute '{name}'")
