"""Which addresses a kernel touches: what no value of a result can show.

A lane that is masked at the store may have read anything before it, and only a page that is not
there would tell. Triton's interpreter hands every load and store its addresses and its mask.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict

import numpy as np
import torch

REASON = "the interpreter's loads and stores are watched, a card's are not"


def extent(tensor):
    """Return the first address of a tensor and the one behind its last element."""
    if not tensor.numel():
        return tensor.data_ptr(), tensor.data_ptr()
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in sizes)
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


@contextlib.contextmanager
def only_inside(arguments):
    """Fail unless loads and stores lie within the tensors among ``arguments``, one writer each.

    A card runs a launch's programs in any order, the interpreter in one: what two programs write to
    the same address may be right here by chance. The context holds one launch.
    """
    from triton.runtime.interpreter import InterpreterBuilder as Builder

    bounds = [extent(value) for value in arguments if isinstance(value, torch.Tensor)]
    first, end = np.array(sorted(set(bounds)), dtype=np.uint64).T
    outside = []
    written = defaultdict(list)  # by program

    def watch(kind, addresses, mask):
        used = addresses[np.broadcast_to(mask, addresses.shape).astype(bool)].astype(np.uint64)
        within = ((used[:, None] >= first) & (used[:, None] < end)).any(axis=1)
        if not within.all():
            outside.append(f"{kind} of {(~within).sum()} elements outside")
        return used

    real_load, real_store = Builder.create_masked_load, Builder.create_masked_store

    def load(self, pointers, mask, *rest):
        watch("load", pointers.data, mask.data)
        return real_load(self, pointers, mask, *rest)

    def store(self, pointers, value, mask, *rest):
        written[self.grid_idx].append(watch("store", pointers.data, mask.data))
        return real_store(self, pointers, value, mask, *rest)

    Builder.create_masked_load, Builder.create_masked_store = load, store
    try:
        yield
    finally:
        Builder.create_masked_load, Builder.create_masked_store = real_load, real_store
    assert not outside, outside
    own = [np.unique(np.concatenate(stores)) for stores in written.values()]
    if own:
        writers = np.unique(np.concatenate(own), return_counts=True)[1]
        assert writers.max(initial=1) == 1, f"{(writers > 1).sum()} elements of several programs"


def start_inside(launch, start=lambda launch: launch()):
    """Start a launch; in the interpreter it must touch nothing but its arguments."""
    if torch.cuda.is_available():
        start(launch)
        return
    with only_inside(launch.arguments.values()):
        start(launch)
