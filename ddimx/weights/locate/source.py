"""Finding and reading weights: one function that every verb's ``--model`` goes through.

What finds a file imports no PyTorch; what reads its tensors does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from ...config import Config
from ...config_file import load_config
from ...errors import DdimxError, UsageError, nearest
from ...progress import Progress
from ...untrusted.text import shortened
from ..configure import configure
from ..formats.diffusers.pipeline_code import is_diffusers_folder
from ..formats.header import is_native
from ..weight_set import WeightSet, Which
from .hub import from_hub, is_hub_id
from .registry import CELEBA, NAMES, PUBLISHED, published_file

SUFFIX = ".safetensors"
_MOST_HEADER = 1 << 40  # bytes; a first word above it is not a length
_SUFFIXES = {".safetensors", ".pt", ".pth", ".ckpt", ".bin"}  # of weights, as files are named
_PICKLED = (b"PK\x03\x04", b"\x80")  # torch.save's zip, and the plain pickle of before 1.6


@dataclass(frozen=True)
class Source:
    """What names weights: a shipped or published name, a path, or a hub id, and what goes with it.

    ``which`` is the wish for averaged or raw weights (None: averaged where there is a choice);
    ``config`` says what the file does not; ``offline`` forbids downloads.
    """

    name: str
    which: Which | None = None
    config: Config | None = None
    offline: bool = False


def shipped_models() -> list[str]:
    """Return the names of the models that come with the package."""
    folder = resources.files("ddimx") / "pretrained"
    if not folder.is_dir():
        return []
    return sorted(p.name.removesuffix(SUFFIX) for p in folder.iterdir() if p.name.endswith(SUFFIX))


def read_source(
    source: Source, progress: Progress | None = None, *, latents: bool = False
) -> tuple[WeightSet, Config]:
    """Find weights, read them, and complete their configuration.

    The notes of what is returned say what was inferred. ``latents`` is as in :func:`find_weights`.

    Raises:
        UsageError: an unknown name, or a configuration that is missing or contradicts the file.
        DdimxError: a download that failed, or a file that cannot be read or represented.
    """
    return completed(find_weights(source, progress, latents=latents), source)


def completed(weights: WeightSet, source: Source) -> tuple[WeightSet, Config]:
    """Return found weights with their whole configuration, and notes on where it comes from.

    Raises:
        UsageError: a configuration that is missing or contradicts the file.
    """
    explicit = source.config
    if explicit is None and source.name in PUBLISHED:
        return weights, PUBLISHED[source.name].load_config()
    if explicit is None and source.name == CELEBA:
        return weights, load_config(CELEBA)
    config, remarks = configure(weights, explicit, source.name)
    return replace(weights, notes=(*remarks, *weights.notes)), config


def find_weights(
    source: Source, progress: Progress | None = None, *, latents: bool = False
) -> WeightSet:
    """Find and read weights; their configuration may still be incomplete.

    Args:
        source: what names them.
        progress: where to show a download.
        latents: whether the caller knows what to do with a network of latents, whose outputs are
            no pictures without its decoder.

    Raises:
        UsageError: an unknown name, weights of a kind that cannot be told, or a network of latents.
        DdimxError: a download that failed, or a file that cannot be read or represented.
    """
    if source.name in PUBLISHED:
        path = locate(source, progress or Progress())
        which_set = source.which or "ema"
        return replace(read_any(path, None), which=which_set, sets=(which_set,))
    weights = read_any(locate(source, progress or Progress()), source.which)
    if weights.decoder is not None and not latents:
        raise UsageError(
            f"{source.name}: its network draws latents, which are no pictures without its "
            f"{weights.decoder.name}; ddimx sample takes it, and nothing converts it or trains on"
        )
    return weights


def tensors_files(source: Source, progress: Progress | None = None) -> tuple[Path, ...]:
    """Return the files that hold a model's tensors, of which nothing is read.

    Raises:
        UsageError: an unknown name.
        DdimxError: a download that failed, or a folder without such a file.
    """
    path = locate(source, progress or Progress())
    if not path.is_dir():
        return (path,)
    from ..formats.diffusers.folder import weights_of

    return weights_of(path, source.which)


def find_model(name: str | Path) -> Path:
    """Return the file or folder behind a shipped name, a path, or a training run's folder.

    Raises:
        UsageError: nothing of that name.
        DdimxError: a folder without a checkpoint.
    """
    names = shipped_models()
    if str(name) in names:
        return Path(str(resources.files("ddimx") / "pretrained" / f"{name}{SUFFIX}"))
    path = Path(name).expanduser()
    if path.is_dir() and not is_diffusers_folder(path):
        checkpoints = sorted(
            [*path.glob(f"checkpoint-*{SUFFIX}"), *path.glob(f"*/checkpoint-*{SUFFIX}")]
        )
        if not checkpoints:
            # What diffusers' training scripts leave until the last step, by the step's number.
            checkpoints = sorted(
                (p for p in path.glob("checkpoint-*") if p.is_dir() and is_diffusers_folder(p)),
                key=lambda p: (len(p.name), p.name),
            )
        if not checkpoints:
            files = sorted(p.name for p in path.iterdir() if p.suffix in _SUFFIXES)
            hint = f"; it holds {', '.join(map(shortened, files[:4]))}: name one" if files else ""
            raise DdimxError(f"{path}: no checkpoint in this folder, and no diffusers model{hint}")
        return checkpoints[-1]
    if path.exists():
        return path
    names = [*names, *NAMES]
    raise UsageError(
        f"unknown model '{name}'{nearest(str(name), names)} Give a file, a training run's or "
        f"diffusers folder, an id of the Hugging Face hub, or one of: {', '.join(names)}."
    )


def read_any(path: Path, which: Which | None) -> WeightSet:
    """Read weights in any of the formats, recognized by content.

    Raises:
        UsageError: a wish for one set of weights that the file does not tell apart.
        DdimxError: a format that is not known, or a damaged file.
    """
    if path.is_dir():
        from ..formats.diffusers.folder import read_folder

        return read_folder(path, which)
    from ..formats.native import read_native, read_tensors
    from ..formats.pickled import read_pickled, weights_in

    start = _start(path)
    if _is_safetensors(start):
        if is_native(path):
            return read_native(path, which)
        return weights_in(read_tensors(path), path, which)
    if start.startswith(_PICKLED):
        return read_pickled(path, which)
    raise DdimxError(
        f"{path}: not a readable model, neither safetensors nor of torch.save; perhaps truncated"
    )


def locate(source: Source, progress: Progress) -> Path:
    """Return the local file or folder, downloading what has a name or an id.

    Raises:
        UsageError: an unknown name.
        DdimxError: a download that failed, or a folder without a checkpoint.
    """
    if source.name in NAMES:
        return published_file(source.name, source.which, offline=source.offline, progress=progress)
    if is_hub_id(source.name):
        return from_hub(source.name, offline=source.offline)
    return find_model(source.name)


def is_own_file(path: Path) -> bool:
    """Return whether a file is a model or a checkpoint that this package wrote.

    Raises:
        DdimxError: it cannot be read, or is damaged.
    """
    return not path.is_dir() and _is_safetensors(_start(path)) and is_native(path)


def _is_safetensors(start: bytes) -> bool:
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < _MOST_HEADER


def _start(path: Path) -> bytes:
    """Return a file's first bytes: of safetensors a header's length, then JSON."""
    try:
        with path.open("rb") as stream:
            return stream.read(9)
    except OSError as error:
        raise DdimxError(f"cannot read {path}: {error.strerror}") from None
