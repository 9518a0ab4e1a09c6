"""Our files as PlayCanvas' splat-transform reads them: a stranger to this code.

Runs where ``DDIMX_SPLAT_TRANSFORM`` names a folder with the npm package installed in it
(``npm install --prefix DIR @playcanvas/splat-transform@2.7.1``; 3.x needs Node 22).

It reads .ply, .splat and .spz and writes .csv, whose columns are those of an INRIA PLY, decoded to
floating point. Frames, all of them turns:

- .ply and .splat come back as they stand in the file;
- .spz, which is RUB by specification, comes back as RDF: half a turn about x, (x, -y, -z);
- .glb it only writes, and takes a PLY to be turned half a turn about z then: (-x, -y, z).

Khronos' validator for glTF (``gltf-validator@2.0.0-dev.3.10``, in the same folder) checks the rest
of a .glb. It does not know the extension, whose names with a colon it takes for errors.
"""

import csv
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ddimx.splats.formats import FORMATS, EncodeOptions
from tests.splats.readers import SH0, read_glb, rotation_angles, sigmoid
from tests.splats.scene import covariances, random_cloud

pytestmark = pytest.mark.full

HALF_TURN_X, HALF_TURN_Z = np.diag([1.0, -1, -1]), np.diag([-1.0, -1, 1])
COUNT = 500


def node_package(name):
    """Return node and the folder of an npm package, or skip."""
    where, node = os.environ.get("DDIMX_SPLAT_TRANSFORM"), shutil.which("node")
    if not where or node is None:
        pytest.skip("DDIMX_SPLAT_TRANSFORM names no folder of npm packages, or there is no node")
    folder = Path(where) / "node_modules" / name
    if not folder.is_dir():
        pytest.skip(f"no npm package {name} in {where}")
    return node, folder


@pytest.fixture(scope="session")
def transform(tmp_path_factory):
    """Convert a file's bytes: ``transform(data, ".spz", ".csv")`` returns the other file's path."""
    node, package = node_package("@playcanvas/splat-transform")
    program = package / "bin" / "cli.mjs"
    folder = tmp_path_factory.mktemp("oracle")

    def convert(data, suffix, to):
        source, target = folder / f"in{suffix}", folder / f"out{to}"
        source.write_bytes(data)
        command = [node, str(program), "-w", "-q", "-g", "cpu", str(source), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return target

    return convert


def columns(path):
    """A .csv as the columns of a cloud."""
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    table = dict(zip(rows[0], np.array(rows[1:], dtype=np.float64).T, strict=True))

    def stack(*names):
        return np.stack([table[name] for name in names], axis=1)

    return {
        "positions": stack("x", "y", "z"),
        "sigmas": np.exp(stack("scale_0", "scale_1", "scale_2")),
        "quaternions": stack("rot_0", "rot_1", "rot_2", "rot_3"),
        "colors": 0.5 + SH0 * stack("f_dc_0", "f_dc_1", "f_dc_2"),
        "alphas": sigmoid(table["opacity"]),
        "rest": [values for name, values in table.items() if name.startswith("f_rest_")],
    }


def assert_same(read, cloud, *, position, log_sigma, angle, color, alpha):
    assert len(read["positions"]) == len(cloud)
    assert np.abs(read["positions"] - cloud.positions).max() <= position
    assert np.abs(np.log(read["sigmas"] / cloud.sigmas)).max() <= log_sigma
    assert rotation_angles(read["quaternions"], cloud.quaternions).max() <= angle
    assert np.abs(read["colors"] - cloud.colors).max() <= color
    assert np.abs(read["alphas"] - cloud.alphas).max() <= alpha


REST = {0: 0, 1: 9, 2: 24, 3: 45}


@pytest.mark.parametrize("degree", REST)
def test_3dgs(transform, degree):
    cloud = random_cloud(COUNT, 10)
    data = FORMATS["3dgs"].encode(cloud, EncodeOptions(sh_degree=degree))
    read = columns(transform(data, ".3dgs.ply", ".csv"))
    assert len(read["rest"]) == REST[degree]
    assert not any(values.any() for values in read["rest"])
    assert_same(read, cloud, position=0, log_sigma=1e-6, angle=1e-3, color=1e-6, alpha=1.1e-6)


def test_splat(transform):
    cloud = random_cloud(COUNT, 11)
    read = columns(transform(FORMATS["splat"].encode(cloud, EncodeOptions()), ".splat", ".csv"))
    importance = cloud.sigmas.astype(float).prod(axis=1) * cloud.alphas
    order = np.argsort(-importance, kind="stable")
    names = ("positions", "sigmas", "quaternions", "colors", "alphas")
    cloud = type(cloud)(*(getattr(cloud, name)[order] for name in names))
    # Bytes of q are written as 128 + 128 q and read here as 2 b / 255 - 1: up to 1/255 more each.
    bounds = {"color": 0.5 / 255 + 1e-6, "alpha": 0.5 / 255 + 1e-6}
    assert_same(read, cloud, position=0, log_sigma=1e-6, angle=2 * (2 / 128 + 2 / 255), **bounds)


@pytest.mark.parametrize(("degree", "version"), [(0, 3), (1, 3), (2, 3), (3, 3), (1, 2), (1, 4)])
def test_spz_comes_back_turned_about_x(transform, degree, version):
    if version == 4:
        pytest.importorskip("zstandard")
    cloud = random_cloud(COUNT, 12)
    options = EncodeOptions(sh_degree=degree, spz_version=version)
    data = FORMATS["spz"].encode(cloud, options)
    read = columns(transform(data, ".spz", ".csv"))
    assert len(read["rest"]) == REST[degree]
    assert not any(values.any() for values in read["rest"])
    part, byte = np.sqrt(0.5) / 511 / 2, 0.5 / 127.5  # as in test_formats.py
    two = 2 * np.sqrt(6 * byte**2 + 2 * np.sqrt(3) * byte)
    bounds = {
        "position": 2.0**-13 + 1e-6,
        "log_sigma": 1 / 32 + 1e-6,
        "angle": 2 * np.sqrt(3 + 9 * 3) * part if version > 2 else two,
        "color": 0.5 / 255 * SH0 / 0.15 + 1e-6,
        "alpha": 0.5 / 255 + 1e-6,
    }
    assert_same(read, turned_about_x(cloud), **bounds)


def turned_about_x(cloud):
    """The cloud turned half a turn about x, each Gaussian's own axes turned about its own x too.

    This is how a reader changes frames, by (w, x, -y, -z). An ellipsoid turned half a turn about
    an axis of its own is the same ellipsoid, which is what the assertion says.
    """
    turned = cloud.rotated(HALF_TURN_X)
    mirrored = replace(turned, quaternions=cloud.quaternions * np.float32([1, 1, -1, -1]))
    np.testing.assert_allclose(covariances(mirrored), covariances(turned), atol=1e-6)
    return mirrored


def test_spz_with_more_bits_behind_the_point(transform):
    cloud = random_cloud(COUNT, 13, reach=0.01)
    read = columns(transform(FORMATS["spz"].encode(cloud, EncodeOptions()), ".spz", ".csv"))
    expected = cloud.rotated(HALF_TURN_X).positions
    assert 0 < np.abs(read["positions"] - expected).max() < 2.0**-15


def test_glb_equals_the_one_it_makes_of_our_ply(transform):
    cloud = random_cloud(COUNT, 14)
    theirs = read_glb(
        transform(FORMATS["3dgs"].encode(cloud, EncodeOptions()), ".ply", ".glb").read_bytes()
    )
    ours = read_glb(FORMATS["glb"].encode(cloud.rotated(HALF_TURN_Z), EncodeOptions()))
    assert theirs["primitive"]["extensions"].keys() == ours["primitive"]["extensions"].keys()
    assert set(ours["primitive"]["attributes"]) <= {
        *theirs["primitive"]["attributes"],
        "COLOR_0",
    }
    for name in ("positions", "sigmas", "colors", "alphas"):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=2e-6, atol=2e-6)
    assert rotation_angles(theirs["quaternions"], ours["quaternions"]).max() < 1e-3


VALIDATE = """
const validator = require(process.argv[1]);
validator.validateBytes(new Uint8Array(require("fs").readFileSync(process.argv[2])))
  .then((report) => console.log(JSON.stringify(report)));
"""


@pytest.mark.parametrize(("count", "degree"), [(1, 0), (7, 0), (7, 1), (7, 3)])
def test_glb_is_valid_gltf(tmp_path, count, degree):
    node, package = node_package("gltf-validator")
    path = tmp_path / "a.glb"
    path.write_bytes(
        FORMATS["glb"].encode(random_cloud(count, 15), EncodeOptions(sh_degree=degree))
    )
    command = [node, "-e", VALIDATE, str(package), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    report = json.loads(done.stdout)
    assert report["info"]["totalVertexCount"] == count
    unknown = "/meshes/0/primitives/0/attributes/KHR_gaussian_splatting:"
    left = [
        message
        for message in report["issues"]["messages"]
        if message["code"] != "UNSUPPORTED_EXTENSION"
        and not (
            message["code"] == "MESH_PRIMITIVE_INVALID_ATTRIBUTE"
            and message["pointer"].startswith(unknown)
        )
    ]
    assert left == []
