"""Downloading published files once: continued after an interruption, verified before use.

The connection is urllib's and the lock filelock's. Not pooch: it begins a broken download again
from its start, and the files have up to half a gigabyte.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from ...errors import DdimxError
from ...files import sync
from ...progress import Progress

TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20
_NOTHING_TO_ADD = 416  # HTTP's "range not satisfiable": the part is as long as the file, or longer


class _ConnectionLost(Exception):
    """A connection that ended early or could not be made; worth another attempt."""


def cache_folder() -> Path:
    """Return where downloads are kept: ``DDIMX_CACHE``, else below XDG's cache folder."""
    if "DDIMX_CACHE" in os.environ:
        return Path(os.environ["DDIMX_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "ddimx"


def fetch(target: Path, address: str, md5: str, *, offline: bool, progress: Progress) -> Path:
    """Return ``target`` with the bytes that ``md5`` names, downloading what is missing of them.

    A file that is there is verified every time, for it may have been put there by hand. Several
    processes may ask at once: one downloads, the others wait.

    Raises:
        DdimxError: offline, or the download failed, or the bytes are others.
    """
    if not target.is_file():
        if offline:
            raise DdimxError(f"offline, {address} is not downloaded\n{by_hand(target, md5)}")
        from filelock import FileLock

        lock_path = target.with_name(target.name + ".lock")
        lock = FileLock(lock_path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(NotImplementedError):  # a file system without locks: all may download
                lock.acquire()
            try:
                if not target.is_file():
                    _download(target, address, md5, progress)
                lock_path.unlink(missing_ok=True)  # after a success nobody needs it any more
            finally:
                lock.release()
        except OSError as error:
            raise DdimxError(f"cannot write {target}: {error.strerror or error}") from None
    digest = md5_file(target)
    if digest != md5:
        raise DdimxError(f"{target} has the MD5 {digest} instead of {md5}; remove it")
    return target


def by_hand(target: Path, md5: str) -> str:
    """Return what to do without a network."""
    return (
        f"  by hand: put the file (MD5 {md5}) at\n  {target}\n"
        "  or give the path of a copy with --model (of a data set: --set data.root=PATH); "
        "DDIMX_MIRROR names another server, DDIMX_CACHE another folder"
    )


def md5_file(path: Path) -> str:
    """Return the hexadecimal MD5 of a file, which is what its publishers state."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _download(target: Path, address: str, md5: str, progress: Progress) -> None:
    """Fill ``<name>.part`` and rename it once its MD5 is right."""
    part = target.with_name(target.name + ".part")
    continued = _size(part) > 0
    progress.say(f"downloading {address} to {target}")
    _fill(part, address, target, md5, progress)
    digest = md5_file(part)
    if digest != md5 and continued:  # the beginning may be another file's
        part.unlink()
        progress.say("the continued download has another MD5; beginning again")
        _fill(part, address, target, md5, progress)
        digest = md5_file(part)
    if digest != md5:
        part.unlink()
        raise DdimxError(
            f"{address} gave a file of MD5 {digest} instead of {md5}; it was removed\n"
            f"{by_hand(target, md5)}"
        )
    sync(part)
    part.replace(target)
    sync(target.parent)


def _fill(part: Path, address: str, target: Path, md5: str, progress: Progress) -> None:
    """Connect until the file is complete, each time from where the last connection ended."""
    while True:
        before = _size(part)
        try:
            return _receive(part, address, progress)
        except _ConnectionLost as error:
            reason = str(error)
        finally:
            progress.stop()
        if _size(part) <= before:
            break
    kept = f"; {before} bytes are kept, the same command goes on from there" if before else ""
    raise DdimxError(f"cannot download {address}: {reason}{kept}\n{by_hand(target, md5)}")


def _receive(part: Path, address: str, progress: Progress) -> None:
    """Append to a file what one connection gives of the bytes that it lacks.

    Raises:
        _ConnectionLost: the connection could not be made, or ended early.
        OSError: the file cannot be written.
    """
    import urllib.error  # here: they take longer than all else that a file in the cache needs
    import urllib.request
    from http.client import HTTPException

    have = _size(part)
    headers = {"User-Agent": "ddimx", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        request = urllib.request.Request(address, headers=headers)
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == _NOTHING_TO_ADD and have:
            return  # whether what is there is right, its MD5 will tell
        raise _ConnectionLost(f"HTTP {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _ConnectionLost(str(error.reason)) from None
    except (HTTPException, ConnectionError, TimeoutError) as error:
        raise _ConnectionLost(str(error) or type(error).__name__) from None
    with answer:
        # A server that ignores ranges sends the file from its beginning.
        if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else 0
        progress.start("downloading, MB", max(total >> 20, 1), have >> 20)
        done = have
        with part.open("r+b" if have else "wb") as stream:
            stream.seek(have)
            while True:
                try:
                    chunk = answer.read1(_CHUNK)
                except (HTTPException, OSError) as error:  # of the connection, not of the file
                    raise _ConnectionLost(str(error) or type(error).__name__) from None
                if not chunk:
                    break
                stream.write(chunk)
                progress.advance((done + len(chunk) >> 20) - (done >> 20))
                done += len(chunk)
    if total and done < total:
        raise _ConnectionLost(f"the connection ended after {done} of {total} bytes")


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0
