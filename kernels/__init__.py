"""One folder per fused operation; imported as ``ddimx.kernels`` and by no other name.

Under a second name every operator would be registered twice, so that name offers nothing. The
name itself can be imported: Hugging Face's transformers looks in a package called ``kernels`` for a
version, and in the root of a checkout it finds this one.
"""

from __future__ import annotations

from typing import NoReturn

if __name__ != "ddimx.kernels":
    __path__ = []

    def __getattr__(name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"import this package as 'ddimx.kernels', not as '{__name__}': "
            "a second name would register every operator twice"
        )
