"""Pictures of curves, drawn with matplotlib, which the extra ``plot`` installs.

It is imported when a picture is drawn. A figure is made and rendered by itself, without pyplot: no
window system is needed, and the matplotlib settings of the process and of the user neither enter
nor change.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..errors import MissingPackage, optional_module
from ..files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999",
    "#7f3c8d", "#117733", "#882255", "#44aa99", "#aa4499", "#ddcc77", "#332288", "#661100",
)  # fmt: skip


def rendered(figure: Callable[[], Figure]) -> Image.Image:
    """Return the figure that ``figure()`` makes as an RGB image.

    Raises:
        MissingPackage: matplotlib is not installed, or cannot be imported.
    """
    optional_module("matplotlib.backends.backend_agg", "charts", "plot")
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.style.context("default", after_reset=True):
        canvas: Any = FigureCanvasAgg(figure())
        canvas.draw()
        pixels = canvas.buffer_rgba()
    width, height = canvas.get_width_height()
    return Image.frombuffer("RGBA", (width, height), pixels).convert("RGB")


def write_figure(path: Path, figure: Callable[[], Figure]) -> str | None:
    """Write the picture of a figure as PNG, whole or not at all.

    For what has another main result: without matplotlib no picture is written, an earlier one is
    removed, and the line that says so is returned.

    Raises:
        OSError: it cannot be written.
    """
    try:
        picture = rendered(figure)
    except MissingPackage as error:
        path.unlink(missing_ok=True)
        return f"{path.name} is omitted: {error}"
    with whole_file(path) as part:
        picture.save(part, format="PNG")
    return None
