"""The downloader against a server of this machine: continued, verified, and clear when it fails."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ddimx.errors import DdimxError
from ddimx.progress import Progress
from ddimx.weights.locate.cache import fetch

BODY = bytes(range(256)) * 40
MD5 = hashlib.md5(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serve ``server.body``; ``server.rules`` say what goes wrong, one rule per request.

    "ok", "no ranges", "404", or a number: that many bytes are sent of those that were announced.
    """

    def do_GET(self):
        rule = self.server.rules.pop(0) if self.server.rules else "ok"
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if rule == "404":
            self.send_error(404)
            return
        body, first = self.server.body, 0
        if wanted and rule != "no ranges":
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        rest = body[first:]
        self.wfile.write(rest[:rule] if isinstance(rule, int) else rest)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.body, made.rules, made.asked = BODY, [], []
        made.address = f"http://127.0.0.1:{made.server_port}/model"
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def get(server, tmp_path):
    target = tmp_path / "cache" / "model.ckpt"

    def run(md5=MD5, offline=False):
        quiet = Progress(quiet=True)
        return fetch(target, server.address, md5, offline=offline, progress=quiet)

    run.target = target
    run.part = target.with_name("model.ckpt.part")
    return run


def test_a_file_is_downloaded_once(server, get):
    assert get() == get.target
    assert get.target.read_bytes() == BODY
    assert [p.name for p in get.target.parent.iterdir()] == ["model.ckpt"]
    get()
    assert server.asked == [None]


def test_a_broken_download_is_continued_in_the_same_command(server, get):
    server.rules = [1000, 3000, "ok"]
    assert get().read_bytes() == BODY
    assert server.asked == [None, "bytes=1000-", "bytes=4000-"]


def test_a_broken_download_is_continued_by_the_next_command(server, get):
    server.rules = [1000, "404"]
    with pytest.raises(DdimxError, match=r"HTTP 404.*1000 bytes are kept"):
        get()
    assert get.part.read_bytes() == BODY[:1000]
    assert not get.target.exists()
    assert get().read_bytes() == BODY
    assert server.asked == [None, "bytes=1000-", "bytes=1000-"]


def test_a_server_without_ranges_sends_the_file_again(server, get):
    server.rules = [1000, "no ranges"]
    assert get().read_bytes() == BODY


def test_a_beginning_of_another_file_is_thrown_away(server, get):
    get.target.parent.mkdir()
    get.part.write_bytes(b"x" * 1000)
    assert get().read_bytes() == BODY
    assert server.asked == ["bytes=1000-", None]


@pytest.mark.parametrize("content", [BODY, BODY + b"too long"], ids=["whole", "too long"])
def test_a_part_to_which_nothing_can_be_added(server, get, content):
    get.target.parent.mkdir()
    get.part.write_bytes(content)
    assert get().read_bytes() == BODY
    assert server.asked == [f"bytes={len(content)}-", *([] if content == BODY else [None])]


def test_a_wrong_file_is_never_used(server, get):
    server.body = b"<html>quota exceeded</html>"
    found = hashlib.md5(server.body).hexdigest()
    with pytest.raises(DdimxError, match=f"gave a file of MD5 {found} instead of {MD5}"):
        get()
    assert not get.target.exists()
    assert not get.part.exists()


def test_a_file_that_was_damaged_later_is_noticed(get):
    get()
    get.target.write_bytes(BODY[:-1])
    with pytest.raises(DdimxError, match=r"model\.ckpt has the MD5 .* remove it"):
        get()


def test_a_server_that_never_gets_further_is_given_up(server, get):
    server.rules = [1000, 0, "ok"]
    with pytest.raises(DdimxError, match=r"the connection ended after 1000 of 10240 bytes; 1000"):
        get()
    assert len(server.asked) == 2


def test_what_to_do_by_hand_is_said(server, get):
    server.rules = ["404"]
    with pytest.raises(DdimxError) as caught:
        get()
    message = str(caught.value)
    assert f"cannot download {server.address}: HTTP 404" in message
    for part in (MD5, str(get.target), "--model", "DDIMX_MIRROR", "DDIMX_CACHE"):
        assert part in message


def test_without_a_server(server, get):
    server.shutdown()
    server.server_close()
    with pytest.raises(DdimxError, match=r"cannot download .*refused"):
        get()


def test_offline_nothing_is_asked(server, get):
    with pytest.raises(DdimxError, match=r"offline, http://127.* is not downloaded"):
        get(offline=True)
    assert server.asked == []
    get.target.parent.mkdir(exist_ok=True)
    get.target.write_bytes(BODY)
    assert get(offline=True) == get.target


def test_a_cache_that_cannot_be_written(get, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DdimxError, match=r"cannot write .*model\.ckpt: "):
        get()


def test_several_processes_download_once(server, get):
    results = []
    threads = [threading.Thread(target=lambda: results.append(get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [get.target] * 4
    assert server.asked == [None]


def test_a_lock_file_of_a_killed_process_does_not_block(server, get):
    get.target.parent.mkdir()
    get.target.with_name("model.ckpt.lock").touch()
    assert get().read_bytes() == BODY
    assert [p.name for p in get.target.parent.iterdir()] == ["model.ckpt"]


def test_where_there_are_no_locks_it_is_downloaded_without(server, get, monkeypatch):
    def acquire(self):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    assert get().read_bytes() == BODY
