"""Every format read back by other code, within what its numbers can hold; and what is refused."""

import contextlib
import io
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.errors import DdimxError, UsageError
from ddimx.splats.cloud import balls
from ddimx.splats.formats import FORMATS, EncodeOptions, format_named
from ddimx.splats.formats.niantic import fraction_bits
from tests.splats.readers import read_3dgs, read_glb, read_splat, read_spz, rotation_angles
from tests.splats.scene import clouds, random_cloud

EPSILON = 2.0**-23  # of float32


def encode(name, cloud, **options):
    return FORMATS[name].encode(cloud, EncodeOptions(**options))


def assert_close(read, cloud, *, position, log_sigma, angle, color, alpha):
    """Compare with absolute bounds; those of sigmas are on their logarithms."""
    assert np.abs(read["positions"] - cloud.positions).max() <= position
    assert np.abs(np.log(read["sigmas"] / cloud.sigmas)).max() <= log_sigma
    assert rotation_angles(read["quaternions"], cloud.quaternions).max() <= angle
    assert np.abs(read["colors"] - cloud.colors).max() <= color
    assert np.abs(read["alphas"] - cloud.alphas).max() <= alpha


REST = {0: 0, 1: 9, 2: 24, 3: 45}  # of three channels: 3, 8 and 15 coefficients


@given(clouds, st.sampled_from(list(REST)))
def test_3dgs_reads_back(cloud, degree):
    read = read_3dgs(encode("3dgs", cloud, sh_degree=degree))
    assert (read["positions"] == cloud.positions).all()
    assert (read["quaternions"] == cloud.quaternions).all()
    assert not read["normals"].any()
    assert read["rest"].shape == (len(cloud), REST[degree])
    assert not read["rest"].any()
    # Logarithms up to 10 and logits up to 14 are rounded to float32; alphas within 1e-6 of 1 move.
    bounds = {"log_sigma": 10 * EPSILON, "color": 2 * EPSILON, "alpha": 1.1e-6}
    assert_close(read, cloud, position=0, angle=1e-3, **bounds)


@given(clouds)
def test_splat_reads_back_in_the_order_of_importance(cloud):
    read = read_splat(encode("splat", cloud))
    importance = read["sigmas"].prod(axis=1)
    order = np.argsort(-cloud.sigmas.astype(float).prod(axis=1) * cloud.alphas, kind="stable")
    fields = ("positions", "sigmas", "quaternions", "colors", "alphas")
    sorted_cloud = type(cloud)(*(getattr(cloud, name)[order] for name in fields))
    assert (read["positions"] == sorted_cloud.positions).all()
    assert (read["sigmas"] == sorted_cloud.sigmas).all()
    assert (np.diff(importance * sorted_cloud.alphas) <= 1e-6 * importance[:-1]).all()
    # A part of q errs by 1/256 by rounding, or 1/128 where 256 became 255: |dq| <= 2 / 128 in all,
    # and the angle is twice that.
    bounds = {"color": 0.5 / 255 + EPSILON, "alpha": 0.5 / 255 + EPSILON}
    assert_close(read, sorted_cloud, position=0, log_sigma=1e-12, angle=4 / 128, **bounds)


@given(clouds, st.sampled_from(list(REST)), st.sampled_from([2, 3]))
def test_spz_reads_back(cloud, degree, version):
    read = read_spz(encode("spz", cloud, sh_degree=degree, spz_version=version))
    assert not read["rest"].any()
    assert read["rest"].shape[1] == REST[degree]
    # Half a step each: sigmas 1/16, colors 1/255 of a range 1/(.15 / C0) wide. Three parts of q
    # by half of sqrt(1/2)/511, the largest, at least 1/2, by up to three times that more.
    part = np.sqrt(0.5) / 511 / 2
    # Version 2: three parts by half of 1/127.5. If w is small, w^2 errs by some 2 sqrt(3) times
    # that, and w itself by the root of it.
    byte = 0.5 / 127.5
    two = 2 * np.sqrt(3 * byte**2 + 2 * np.sqrt(3) * byte + 3 * byte**2)
    bounds = {
        "position": 0.5 * 2.0 ** -read["bits"] * (1 + 1e-6),
        "log_sigma": 0.5 / 16 + 1e-6,
        "angle": 2 * np.sqrt(3 + 9 * 3) * part if version == 3 else two,
        "color": 0.5 / 255 * 0.28209479177387814 / 0.15 + 1e-6,
        "alpha": 0.5 / 255 + EPSILON,
    }
    assert_close(read, cloud, **bounds)


@given(clouds, st.sampled_from(list(REST)))
def test_glb_reads_back(cloud, degree):
    read = read_glb(encode("glb", cloud, sh_degree=degree))
    for name in ("positions", "sigmas", "quaternions", "alphas"):
        assert (read[name] == getattr(cloud, name)).all()
    assert np.abs(read["colors"] - cloud.colors).max() <= 2 * EPSILON
    accessor = read["document"]["accessors"][0]
    assert accessor["min"] == cloud.positions.min(axis=0).tolist()
    assert accessor["max"] == cloud.positions.max(axis=0).tolist()
    assert len(read["rest"]) == REST[degree] / 3
    assert not any(values.any() for values in read["rest"].values())
    # Back from linear light to sRGB, whose slope is at most 12.92.
    light = read["points"][:, :3]
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(srgb - cloud.colors).max() <= 12.92 * 0.5 / 255 + 1e-4
    assert np.abs(read["points"][:, 3] - cloud.alphas).max() <= 0.5 / 255 + EPSILON


def test_trimesh_shows_the_points_of_a_glb_in_their_colors():
    """It reads colors of 8 bits and takes those of 16 for others."""
    trimesh = pytest.importorskip("trimesh")
    cloud = random_cloud(20, 7)
    data = encode("glb", cloud)
    (points,) = trimesh.load_scene(io.BytesIO(data), file_type="glb").geometry.values()
    assert (points.vertices == cloud.positions).all()
    assert np.array_equal(points.colors, np.rint(read_glb(data)["points"] * 255))


@pytest.mark.parametrize("text", [False, True])
def test_plyfile_reads_ply(text):
    plyfile = pytest.importorskip("plyfile")
    cloud = random_cloud(50, 1)
    vertices = plyfile.PlyData.read(io.BytesIO(encode("ply", cloud, text=text)))["vertex"]
    names = [prop.name for prop in vertices.properties]
    expected = "x y z scale_x scale_y scale_z red green blue opacity"
    assert names == expected.split()
    floats = np.stack([vertices[n] for n in expected.split()[:6]], axis=1)
    assert (floats == np.concatenate([cloud.positions, cloud.sigmas], axis=1)).all()
    assert (vertices["opacity"] == cloud.alphas).all()
    colors = np.stack([vertices[n] for n in ("red", "green", "blue")], axis=1)
    assert colors.dtype == np.uint8
    assert np.abs(colors / 255 - cloud.colors).max() <= 0.5 / 255 + EPSILON


def test_plyfile_reads_3dgs():
    plyfile = pytest.importorskip("plyfile")
    cloud = random_cloud(50, 2)
    data = encode("3dgs", cloud, sh_degree=3)
    vertices = plyfile.PlyData.read(io.BytesIO(data))["vertex"]
    ours = read_3dgs(data)
    assert len(vertices.properties) == 62
    assert (vertices["rot_3"] == cloud.quaternions[:, 3]).all()
    expected = 0.5 + 0.28209479177387814 * vertices["f_dc_1"].astype(float)
    np.testing.assert_allclose(ours["colors"][:, 1], expected, rtol=1e-12)


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_cloud_gives_the_same_bytes(name):
    pytest.importorskip("plyfile")
    assert encode(name, random_cloud(30, 3)) == encode(name, random_cloud(30, 3))


@pytest.mark.parametrize("name", FORMATS)
def test_no_python_function_is_called_once_per_gaussian(name):
    """What makes a million splats take seconds: work is done by arrays."""
    pytest.importorskip("plyfile")
    calls = []
    for count in (20, 2000):
        cloud = random_cloud(count, 4)
        encode(name, cloud)  # so that imports and caches are out of the way
        events = []
        sys.setprofile(lambda _frame, event, _arg, events=events: events.append(event))
        encode(name, cloud)
        sys.setprofile(None)
        calls.append(events.count("call"))
    assert calls[1] - calls[0] < 200  # a garbage collection may come between


def test_spz_takes_the_usual_12_bits_where_they_will_do():
    assert fraction_bits(balls([[1, 1, 1]], 0.01, (1, 1, 1), 1)) == 12
    assert fraction_bits(balls([[0, 0, 0]], 0.01, (1, 1, 1), 1)) == 12
    assert fraction_bits(balls([[1, 1, 1]], 2**-12, (1, 1, 1), 1)) == 14  # four steps a sigma
    assert fraction_bits(balls([[5000, 0, 0]], 10, (1, 1, 1), 1)) == 10  # 5000 * 2^11 > 2^23


@pytest.mark.parametrize(
    ("reach", "sigma", "message"),
    [(1e6, 1e-3, "24 bits"), (1e9, 1.0, "24 bits"), (1.0, 1e-5, "deviations"), (1.0, 500, "devia")],
)
def test_spz_refuses_what_it_cannot_hold(reach, sigma, message):
    cloud = balls([[reach, 0, 0]], sigma, (1, 1, 1), 1)
    with pytest.raises(DdimxError, match=message):
        encode("spz", cloud)


@pytest.mark.parametrize(
    ("byte", "held"), [(-0.497, True), (-0.503, False), (255.497, True), (255.503, False)]
)
def test_spz_holds_what_rounds_to_a_byte(byte, held):
    """A byte is 16 (ln sigma + 10), rounded; float32's sigma moves it by 1e-6."""
    cloud = balls([[0, 0, 0]], float(np.exp(byte / 16 - 10)), (1, 1, 1), 1)
    with contextlib.nullcontext() if held else pytest.raises(DdimxError, match="deviations"):
        encode("spz", cloud)


def test_a_name_or_an_option_that_a_format_lacks_is_refused():
    with pytest.raises(UsageError, match="did you mean 'splat'"):
        format_named("splats")
    with pytest.raises(UsageError, match="0, 1, 2 or 3"):
        EncodeOptions(sh_degree=4)
    with pytest.raises(UsageError, match="2, 3 or 4"):
        EncodeOptions(spz_version=1)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        (EncodeOptions(sh_degree=3), {"3dgs", "spz", "glb"}),
        (EncodeOptions(text=True), {"ply"}),
        (EncodeOptions(), set(FORMATS)),
    ],
)
def test_what_a_format_has_no_room_for_is_refused(name, options, allowed):
    if name in allowed:
        FORMATS[name].check(name, options)
    else:
        with pytest.raises(UsageError, match=f"{name} has no"):
            FORMATS[name].check(name, options)


def test_ply_without_plyfile_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "plyfile", None)
    with pytest.raises(DdimxError, match=r"pip install 'ddimx\[3d\]'"):
        encode("ply", random_cloud(1, 5))


def test_opaque_and_faint_gaussians_have_finite_logits():
    cloud = random_cloud(2, 6)
    cloud = replace(cloud, alphas=np.array([1.0, 1e-30], dtype=np.float32))
    table = np.frombuffer(encode("3dgs", cloud, sh_degree=0)[-136:], dtype="<f4").reshape(2, 17)
    np.testing.assert_allclose(table[:, 9], [13.8155, -13.8155], atol=1e-4)
