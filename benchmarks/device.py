"""What measuring on a device needs: waiting for it, replaying graphs, counting launches."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .runner import Call


def waiter(device: torch.device) -> Callable[[], object]:
    """Return what blocks until the device has finished."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


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
    found = [event for event in profile.events() if str(event.device_type).endswith(".CUDA")]
    return {"launches": len(found)}
