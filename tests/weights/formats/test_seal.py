"""Damage of a checkpoint is found wherever it is, and files without a digest are still read."""

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddimx.errors import DdimxError
from ddimx.weights.formats.header import read_header
from ddimx.weights.formats.native import Header, read_native, read_tensors, save, write_safetensors
from ddimx.weights.formats.seal import EMPTY, KEY, damage, place_of
from tests.conftest import examples

TENSORS = {"model.w": torch.arange(60.0).reshape(6, 10), "ema.w": torch.zeros(6, 10)}


@pytest.fixture(scope="module")
def sealed(tiny_config, tmp_path_factory):
    """A checkpoint, its bytes, and a path for damaged copies."""
    folder = tmp_path_factory.mktemp("sealed")
    path = folder / "checkpoint.safetensors"
    save(path, TENSORS, Header("checkpoint", tiny_config, {"step": 3, "losses": [0.5]}))
    return path, path.read_bytes(), folder / "damaged.safetensors"


def test_the_digest_is_that_of_the_file_with_zeros_in_its_place(sealed):
    path, data, _ = sealed
    assert damage(path) is None
    place = place_of(data)
    assert data[:place].endswith(f'"{KEY}":"'.encode())
    open_bytes = data[:place] + EMPTY.encode() + data[place + 64 :]
    assert data[place : place + 64].decode() == hashlib.sha256(open_bytes).hexdigest()
    assert torch.equal(read_tensors(path, "model.")["w"], TENSORS["model.w"])


@examples(25)
@given(data=st.data())
def test_any_wrong_byte_is_found(sealed, data):
    _, whole, path = sealed
    place = data.draw(st.integers(0, len(whole) - 1))
    wrong = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[place]))
    path.write_bytes(whole[:place] + bytes([wrong]) + whole[place + 1 :])
    assert damage(path) is not None


@examples(10)
@given(data=st.data())
def test_what_is_cut_off_zeroed_or_longer_is_found(sealed, data):
    _, whole, path = sealed
    start = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(start + 1, len(whole)))
    path.write_bytes(whole[:start])
    assert damage(path) is not None
    path.write_bytes(whole + whole[start:end])
    assert damage(path) is not None
    zeroed = whole[:start] + bytes(end - start) + whole[end:]
    path.write_bytes(zeroed)
    assert (damage(path) is None) == (zeroed == whole)


@pytest.mark.parametrize("place", [-19, -13, -2, -1])
def test_a_wrong_byte_in_the_digests_own_name_is_found(sealed, place):
    """Without its name the file would be one of before, of which nothing tells a wrong byte."""
    _, whole, path = sealed
    place += place_of(whole)
    for wrong in b'Z"':
        path.write_bytes(whole[:place] + bytes([wrong]) + whole[place + 1 :])
        assert (damage(path) is None) == (whole[place] == wrong)


def test_another_programs_file_is_not_called_damaged(tmp_path):
    path = tmp_path / "checkpoint-00000001.safetensors"
    write_safetensors(path, TENSORS, {"author": "somebody"})
    assert damage(path) is None
    with pytest.raises(DdimxError, match="without this package's header"):
        read_native(path)


def test_weights_are_not_read_from_a_damaged_checkpoint(sealed):
    _, whole, path = sealed
    path.write_bytes(whole[:-3] + b"\x01" + whole[-2:])
    assert read_header(path).info["step"] == 3  # which says nothing of the numbers
    with pytest.raises(DdimxError, match=r"damaged: its bytes are not those .* \(SHA-256\)"):
        read_native(path)


def test_a_file_of_before_is_whole_as_long_as_it_can_be_read(tiny_config, tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, {"w": torch.zeros(5)}, Header("model", tiny_config, {}))
    assert KEY.encode() not in path.read_bytes()
    assert damage(path) is None
    path.write_bytes(path.read_bytes()[:-1])
    assert damage(path).startswith("not readable")
    with pytest.raises(DdimxError, match=r"cannot read .*: No such file"):
        damage(tmp_path / "absent")
