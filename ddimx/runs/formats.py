"""The files that images can be written to, by the values of ``--format``."""

from __future__ import annotations

IMAGE_FORMATS = ("png", "webp")  # a file for each sample
TAR_FORMAT = "tar"  # PNGs in tars of some thousand
ARRAY_FORMATS = ("npz", "npy", "adm")  # one file for all
FORMATS = (*IMAGE_FORMATS, TAR_FORMAT, *ARRAY_FORMATS)
LISTED = 10_000  # samples of a run that its manifest lists one by one; of more it says how many

PARTS = "parts"  # the folder of what will be joined
PIECE = ".piece"  # a part of a tar
