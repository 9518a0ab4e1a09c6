"""``ddimx`` with a feature network of three numbers and parts of 5 images: a process of a launch.

``DIE_AFTER`` kills it, as nothing can be caught, once it has seen so many images.
"""

import os
import signal

from ddimx.cli.app import run
from ddimx.evaluation.fid import features, parts
from tests.evaluation.fid.tiny_features import MeanColors


class Mortal(MeanColors):
    """Kills its process after ``DIE_AFTER`` images."""

    def __call__(self, pixels):
        if sum(self.batches) >= int(os.environ.get("DIE_AFTER", "1000000")):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(pixels)


if __name__ == "__main__":
    parts.MOST = 5
    features.inception = lambda *_, **__: Mortal()
    run()
