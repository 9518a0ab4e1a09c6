"""A feature network of three numbers, whose statistics are computed by hand."""

import torch


class MeanColors:
    """An image's mean red, green and blue in [0, 1]."""

    def __init__(self):
        self.about = {"network": "mean colors", "library": "none 1"}
        self.batches = []

    def __call__(self, pixels):
        assert pixels.dtype == torch.uint8
        assert pixels.shape[1] == 3
        self.batches.append(len(pixels))
        return pixels.double().mean(dim=(2, 3)) / 255
