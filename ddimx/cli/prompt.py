"""``ddimx sample --prompt``: a text-to-image pipeline in the place of a model of our own."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import UsageError
from .common import DEFAULT_MODEL

if TYPE_CHECKING:
    from ..options import RunOptions
    from ..weights.model import Model


def pipeline_sha256(options: RunOptions) -> str:
    """Return the hash that the pipeline will have in the manifest, without loading it.

    Raises:
        UsageError, DdimxError: as :func:`load_pipeline`, as far as the folder can be found.
    """
    _check_packages()
    from ..integrations.diffusers.text import text_model_sha256

    return text_model_sha256(options.model or DEFAULT_MODEL, offline=options.offline)


def load_pipeline(options: RunOptions, dtype: str) -> Model:
    """Load the pipeline that the options name, as a model that draws their text.

    Raises:
        UsageError: a package is missing, the model draws without a text, or it takes no negative
            prompt or size.
        DdimxError: a pipeline that cannot be loaded.
    """
    _check_packages()
    from ..integrations.diffusers.process import prompted
    from ..integrations.diffusers.text import load_text_model

    model = load_text_model(
        options.model or DEFAULT_MODEL,
        device=options.device or "auto",
        dtype=dtype,
        offline=options.offline,
    )
    assert options.prompt is not None
    return prompted(
        model, options.prompt, negative_prompt=options.negative_prompt, size=options.size
    )


def _check_packages() -> None:
    for package in ("diffusers", "transformers", "huggingface_hub"):
        if find_spec(package) is None:
            raise UsageError(f"--prompt needs {package}: pip install 'ddimx[hub]'")
