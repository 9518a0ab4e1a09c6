"""Pictures of a cloud: a PNG of three views, and a WebP that turns once."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..splats.cloud import GaussianCloud
from ..splats.preview.camera import Camera, look_at
from ..splats.preview.render import Picture, render

VIEWS = ((35.0, 20.0), (-35.0, 8.0), (145.0, 28.0))  # azimuth, elevation: two in front, one behind
VIEW_SIZE = 384
TURN_SIZE, TURN_FRAMES, TURN_MILLISECONDS = 320, 30, 90
LAMP_ON_LIGHT = 0.35


@dataclass(frozen=True, eq=False)
class Scene:
    """What is drawn.

    Attributes:
        cloud: y up.
        spreads: how the Gaussians around each one are spread, for the normals; None where nothing
            is drawn.
        baked: whether its colors have light in them already.
    """

    cloud: GaussianCloud
    spreads: npt.NDArray[np.float64] | None
    baked: bool = False

    def drawn(self, camera: Camera) -> Picture:
        """Return the picture that a camera takes."""
        return render(self.cloud, camera, self.spreads, lamp=LAMP_ON_LIGHT if self.baked else 1.0)


def preview_png(scene: Scene) -> bytes:
    """Draw three views side by side."""
    from PIL import Image

    around = 2 * float(scene.cloud.sigmas.max())
    views = []
    for azimuth, elevation in VIEWS:
        camera = look_at(
            scene.cloud.positions, VIEW_SIZE, around=around, azimuth=azimuth, elevation=elevation
        )
        views.append(scene.drawn(camera))
    stream = io.BytesIO()
    Image.fromarray(np.concatenate(views, axis=1)).save(stream, "PNG")
    return stream.getvalue()


def turntable_webp(scene: Scene) -> bytes:
    """Draw one turn about the vertical as an animated WebP that loops."""
    from PIL import Image

    around = 2 * float(scene.cloud.sigmas.max())
    images = []
    for i in range(TURN_FRAMES):
        azimuth = 35 + 360 * i / TURN_FRAMES
        camera = look_at(
            scene.cloud.positions, TURN_SIZE, around=around, azimuth=azimuth, whole_turn=True
        )
        images.append(Image.fromarray(scene.drawn(camera)))
    stream = io.BytesIO()
    images[0].save(
        stream,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=TURN_MILLISECONDS,
        loop=0,
        quality=85,
        method=4,
    )
    return stream.getvalue()
