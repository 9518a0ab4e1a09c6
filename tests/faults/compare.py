"""What a command left: all files below a folder, without the times that they hold."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
from pathlib import Path

from ddimx.sampling.profile import TRACE

# What tells when, how long, and how often a run was interrupted.
TIMES = {"seconds", "network_calls", "images_per_second", "data_wait_seconds", "data_wait_share"}
TIMES |= {"finished"}  # of a shard
TIMES |= {"resumed", "hours", "found", "seconds_per_shape", "profile"}


def content(path: Path):
    """What a file says, without the times that its documentation says it holds."""
    data = path.read_bytes()
    if path.name == TRACE:  # it holds nothing but times
        return sorted(json.loads(gzip.decompress(data)))
    if path.suffix == ".json":
        return timeless(json.loads(data))
    if path.suffix == ".jsonl":  # a note says that something could not be written
        try:
            lines = [json.loads(line) for line in data.splitlines() if line]
        except ValueError:  # the last line of a journal whose writer was killed
            return data
        return [timeless(line) for line in lines if "note" not in line]
    if path.suffix == ".csv":
        return [timeless(row) for row in csv.DictReader(io.StringIO(data.decode()))]
    if path.suffix == ".safetensors":
        length = 8 + struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:length])
        metadata = header["__metadata__"]
        metadata.pop("ddimx.sha256", None)  # of all that the file says, times too
        if "ddimx.info" in metadata:
            metadata["ddimx.info"] = timeless(json.loads(metadata["ddimx.info"]))
        return header, data[length:]
    return data


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def tree(folder: Path) -> dict[str, object]:
    """All files below a folder; TensorBoard names its own by the time, one for every start."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if "tensorboard/" not in name:
            found[name] = None if path.is_dir() else content(path)
    return found


def differences(expected: dict[str, object], found: dict[str, object]) -> list[str]:
    lacking = [f"no {name}" for name in expected if name not in found]
    more = [f"left: {name}" for name in found if name not in expected]
    both = [name for name in expected if name in found]
    return lacking + more + [f"differs: {n}" for n in both if expected[n] != found[n]]
