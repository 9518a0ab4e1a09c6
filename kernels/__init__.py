"""One folder per fused operation; imported as ``ddimx.kernels`` and by no other name.

Imported under a second name every operator would be registered twice, so that is refused here.
"""

if __name__ != "ddimx.kernels":
    raise ImportError(
        f"import this package as 'ddimx.kernels', not as '{__name__}': "
        "a second name would register every operator twice"
    )
