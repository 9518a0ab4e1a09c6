"""diffusers' schedulers of discrete tokens driving the furniture network, level by level.

They are peers: `DDIMX_FULL=1 pytest -n 0 -s` with this file's name prints the share of shapes in
one piece of each, at equal calls of the network, but for redraws, which come on top.
"""

import itertools

import numpy as np
import pytest
import torch

import ddimx
from ddimx.discrete.cells import Level, children, octrees, root
from ddimx.models.octree.process import TRANSITIONS
from ddimx.models.octree.sampler import TokenDenoiser
from ddimx.octree.geometry import pieces

diffusers = pytest.importorskip("diffusers")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not hasattr(diffusers, "EntropyBoundScheduler"), reason="diffusers 0.42 has these"
    ),
]
COUNT, STEPS, SEED = 24, 8, 20


def drawn_by(kind, model, labels, **options):
    """Draw a shape for each label; ids 1..255 are the scheduler's classes 0..254."""
    generator = torch.Generator().manual_seed(SEED)
    transition = torch.full_like(labels, TRANSITIONS.index("uniform"))
    denoiser = TokenDenoiser(model.network, transition=transition, labels=labels)
    total, finished = model.process.schedule.num_timesteps, ()
    for level in range(model.process.depth):
        cells = children(finished[-1]) if finished else root(len(labels))
        n = min(STEPS, 8**level)
        scheduler = kind(num_inference_steps=n, **options)
        ids = torch.randint(0, 255, (len(cells),), generator=generator)
        for i in range(n):
            state = (ids + 1).to(torch.uint8)
            with torch.no_grad():
                raw = denoiser(cells, state, total * (1 - i / n) - 1, finished)
            logits, ends = raw.logits[:, 1:].float(), cells.offsets.tolist()
            more = {"temperature": 0.8} if kind is diffusers.DiscreteDDIMScheduler else {}
            parts = [
                scheduler.step(logits[None, a:b], i, ids[None, a:b], generator=generator, **more)
                for a, b in itertools.pairwise(ends)
            ]
            # What entropy routing has not accepted at the end would stay noise.
            name = "sampled_tokens" if i == n - 1 else "prev_sample"
            ids = torch.cat([getattr(part, name)[0] for part in parts])
        finished = (*finished, Level(cells, (ids + 1).to(torch.uint8)))
    return octrees(finished)


def test_shapes_of_our_sampler_hang_together_at_least_as_often_as_theirs():
    model = ddimx.load_model("furniture", device="cpu", dtype="fp32")
    names = [model.classes[i % len(model.classes)] for i in range(COUNT)]
    labels = torch.tensor([model.classes.index(name) for name in names])
    own = {"count": COUNT, "seed": SEED, "steps": STEPS, "category": names, "temperature": 0.8}
    drawn = {
        "diffusers' DiscreteDDIMScheduler": drawn_by(
            diffusers.DiscreteDDIMScheduler, model, labels
        ),
        "diffusers' EntropyBoundScheduler": drawn_by(
            diffusers.EntropyBoundScheduler, model, labels, entropy_bound=3.0
        ),
        "ddimx": ddimx.sample(model, transition="uniform", redraw=0, **own),
        "ddimx, 4 redraws": ddimx.sample(model, transition="uniform", redraw=4, **own),
    }
    shares = {
        name: np.mean([len(np.unique(pieces(t.leaves, t.depth))) == 1 for t in trees])
        for name, trees in drawn.items()
    }
    for name, share in shares.items():
        print(f"{name}: {100 * share:.0f}% in one piece")
    assert shares["ddimx, 4 redraws"] >= max(shares.values())
