"""A process that stays and makes shards on order: its start is not part of what is measured.

``python -m benchmarks.scale.worker MODEL`` reads a line of JSON for each order (``out``, ``shard``,
``count``, ``batch_size``) and answers each with a line: the shard is made, and what it took.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TextIO

import torch

from ddimx.options import RunOptions
from ddimx.progress import Progress
from ddimx.runs.shards import Shard
from ddimx.sampling.run import SampleRequest, run
from ddimx.sampling.settings import resolve
from ddimx.signals import Stop
from ddimx.timing import Clock
from ddimx.weights.model import load_model

from ..machine import peak_mb


def main(orders: TextIO = sys.stdin, answers: TextIO = sys.stdout) -> None:
    """Load the model, then do what is ordered, each as ``ddimx sample --shard`` does it."""
    torch.set_num_threads(1)
    model = load_model(sys.argv[1], device="cpu")
    print("ready", file=answers, flush=True)
    for line in orders:
        order = json.loads(line)
        options = RunOptions(count=order["count"], batch_size=order["batch_size"])
        request = SampleRequest(
            model,
            resolve(options, model),
            out=Path(order["out"]),
            shard=Shard.parsed(order["shard"]),
        )
        with Clock() as clock:
            run(request, Stop(), Progress(quiet=True))
        told = {"coordinating_ms": 1e3 * clock.seconds["coordinating"], "peak_mb": peak_mb()}
        print(json.dumps(told), file=answers, flush=True)


if __name__ == "__main__":
    main()
