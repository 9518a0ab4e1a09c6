"""CIFAR-10's download, from a server of this machine."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from ddimx.config_file import load_config
from ddimx.data.images import cifar10
from ddimx.data.images.download import obtain
from ddimx.data.images.sources import open_source
from ddimx.errors import DdimxError
from ddimx.progress import Progress
from ddimx.weights.locate.cache import md5_file
from tests.data.images.official import cifar10 as write_cifar10

ARCHIVE = "cifar-10-python.tar.gz"


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror that holds a small archive, whose MD5 is taken for the published one."""
    folder = tmp_path / "mirror"
    images, _ = write_cifar10(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cifar10, "MD5", md5_file(folder / ARCHIVE))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as made:
        monkeypatch.setenv("DDIMX_MIRROR", f"http://127.0.0.1:{made.server_port}")
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield images
        made.shutdown()
        thread.join()


def get(*settings, offline=False):
    config = load_config("cifar10", settings)
    obtain(config.data, offline=offline, progress=Progress(quiet=True))
    return config


def test_what_is_missing_is_downloaded_once(mirror, tmp_path, monkeypatch):
    source = open_source(get())
    assert np.array_equal(source.images(np.arange(20)), mirror[:20])
    assert [p.name for p in (tmp_path / "data" / "cifar10").iterdir()] == [ARCHIVE]
    monkeypatch.setenv("DDIMX_MIRROR", "http://127.0.0.1:1")  # where nobody answers
    get()
    get(offline=True)


def test_other_bytes_are_refused(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "MD5", "c58f30108f718f92721af3b95e74349a")
    with pytest.raises(DdimxError, match="instead of c58f30108f718f92721af3b95e74349a"):
        get()
    assert not (tmp_path / "data" / "cifar10" / ARCHIVE).exists()


def test_offline_says_where_to_put_it(mirror, tmp_path):
    with pytest.raises(DdimxError, match=r"put the file .* at\n  data/cifar10/cifar-10-python"):
        get(offline=True)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("item", ["data.root=mine", "data.dataset=CELEBA"])
def test_nothing_is_put_into_a_users_own_place_nor_for_other_sets(mirror, tmp_path, item):
    get(item)
    assert [p.name for p in tmp_path.iterdir()] == ["mirror"]


def test_an_unpacked_folder_is_enough(mirror, tmp_path):
    write_cifar10(tmp_path / "data" / "cifar10", archive=False)
    get(offline=True)
