"""What measuring on a device needs: waiting for it, replaying graphs, counting launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .runner import Call

# Of a function of a few operators without a cache of compiled code: two CPU cores, a GPU's host.
COMPILE_SECONDS = {"cpu": 12.0, "cuda": 4.0}
# How CUDA's runtime and driver name what makes a device work.
STARTS = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")


def waiter(device: torch.device) -> Callable[[], object]:
    """Return what blocks until the device has finished."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


def compile_seconds(device: torch.device) -> float:
    """Return about how long ``torch.compile`` takes for a function of a few operators."""
    return COMPILE_SECONDS.get(device.type, COMPILE_SECONDS["cpu"])


def graphed(call: Call, device: torch.device) -> Call:
    """Capture a call that reads and writes fixed tensors, and return its replay (CUDA only)."""
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):  # lazy initialisation must not be captured
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def launches(call: Call, device: torch.device) -> dict[str, float]:
    """Return how many kernels one call starts, as a column; empty where there is no CUDA."""
    if device.type != "cuda":
        return {}
    activity = torch.profiler.ProfilerActivity.CUDA
    call()
    torch.cuda.synchronize(device)
    with torch.profiler.profile(activities=[activity]) as profile:
        call()
        torch.cuda.synchronize(device)
    kernels = [event for event in profile.events() if str(event.device_type).endswith(".CUDA")]
    return {"launches": len(kernels)}


def per_call(draw: Call, calls: float, device: torch.device) -> dict[str, float]:
    """Return what one network call of a sample starts, the sampler's own work included.

    On a GPU the kernels and copies that run there, and the host's calls that start them (a graph
    is one); on a CPU the operators that are called from Python or from compiled code, without
    those that they call themselves (a loop that a compiler made of several operators is none).

    Args:
        draw: makes a sample; it is called twice.
        calls: the network calls in it.
    """
    activities = torch.profiler.ProfilerActivity
    on_gpu = device.type == "cuda"
    if not on_gpu and device.type != "cpu":
        return {}
    draw()
    waiter(device)()
    with torch.profiler.profile(activities=[activities.CUDA if on_gpu else activities.CPU]) as run:
        draw()
        waiter(device)()
    events = run.events() or []
    if not on_gpu:
        operators = [event for event in events if "::" in event.name and not _inside(event)]
        return {"operators_per_call": len(operators) / calls}
    kernels = [event for event in events if str(event.device_type).endswith(".CUDA")]
    starts = [event for event in events if event.name.startswith(STARTS)]
    counts = {"kernels_per_call": len(kernels) / calls}
    return counts | ({"launches_per_call": len(starts) / calls} if starts else {})


def _inside(event: Any) -> bool:
    """Return whether an operator called this one."""
    above = event.cpu_parent
    while above is not None:
        if "::" in above.name:
            return True
        above = above.cpu_parent
    return False
