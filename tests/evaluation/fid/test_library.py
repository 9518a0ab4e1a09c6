"""All figures through the real library, in an environment where it loads (``.ci/full`` makes one).

Its published weights are 95 MB and not downloaded here: the network is the library's own with
random weights, in a file of the published form. The expected figures are the library's.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddimx.errors import UsageError
from ddimx.evaluation.fid.features import torch_fidelity
from tests.sampling import invoke

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def library():
    try:
        return torch_fidelity()
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def weights(library, tmp_path_factory):
    """A file with every tensor of InceptionV3, drawn from a seed."""
    kind = library.FeatureExtractorInceptionV3
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save({}, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "load_state_dict", lambda self, tensors: None)
        torch.manual_seed(0)
        network = kind("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    for layer in network.modules():  # PyTorch's own start would let the signal die out
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    torch.save(network.state_dict(), path)
    return path


def folder_of(path, seed, count):
    path.mkdir()
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        big = Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)
        big.save(path / f"{i}.png")
    return path


def test_the_figures_are_the_librarys(library, weights, tmp_path):
    a, b = folder_of(tmp_path / "a", 0, 24), folder_of(tmp_path / "b", 1, 20)
    expected = library.calculate_metrics(
        input1=str(a),
        input2=str(b),
        feature_extractor="inception-v3-compat",
        fid=True,
        kid=True,
        kid_subset_size=20,
        prc=True,
        cuda=False,
        cache=False,
        verbose=False,
        feature_extractor_weights_path=str(weights),
    )
    args = ("--samples", a, "--reference", b, "--features", weights, "--device", "cpu", "--json")
    done = invoke("evaluate", "fid", *args)
    assert done.code == 0, done.err
    record = json.loads(done.out)
    distance = expected["frechet_inception_distance"]
    assert distance > 0.01
    # The library takes roots of the eigenvalues of a product of float32 features' covariances,
    # of which 2000 should be 0: roots of rounding. Ours are of a symmetric matrix.
    assert record["fid"] == pytest.approx(distance, rel=1e-3)
    # Kernels of features in float32 there, of about 1, whose sums of 400 nearly cancel.
    kid = record["kid"]
    assert kid["mean"] == pytest.approx(expected["kernel_inception_distance_mean"], abs=1e-6)
    assert kid["deviation"] == pytest.approx(expected["kernel_inception_distance_std"], abs=1e-6)
    assert record["precision"] == pytest.approx(expected["precision"])
    assert record["recall"] == pytest.approx(expected["recall"])
    assert record["samples"]["library"] == f"torch-fidelity {library.__version__}"
    assert (record["samples"]["count"], record["reference"]["count"]) == (24, 20)
