"""Downloading published files once: continued after an interruption, verified before use."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from ...errors import DdimxError
from ...files import sync
from ...progress import Progress

TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20
_NOTHING_TO_ADD = 416  # HTTP's "range not satisfiable": the part is as long as the file, or longer


class _BrokenOff(Exception):
    """A connection that ended early or could not be made; worth another attempt."""


def cache_folder() -> Path:
    """Return where downloads are kept: ``DDIMX_CACHE``, else below XDG's cache folder."""
    if "DDIMX_CACHE" in os.environ:
        return Path(os.environ["DDIMX_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "ddimx"


def fetched(target: Path, address: str, md5: str, *, offline: bool, progress: Progress) -> Path:
    """Return ``target`` with the bytes that ``md5`` names, downloading what is missing of them.

    A file that is there is verified every time, for it may have been put there by hand. Several
    processes may ask at once: one downloads, the others wait.

    Raises:
        DdimxError: offline, or the download failed, or the bytes are others.
    """
    if not target.is_file():
        if offline:
            raise DdimxError(f"offline, {address} is not downloaded\n{by_hand(target, md5)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _alone(target):
                if not target.is_file():
                    _download(target, address, md5, progress)
        except OSError as error:
            raise DdimxError(f"cannot write {target}: {error.strerror or error}") from None
    found = md5_file(target)
    if found != md5:
        raise DdimxError(f"{target} has the MD5 {found} instead of {md5}; remove it")
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
    continued = part.is_file() and part.stat().st_size > 0
    progress.say(f"downloading {address} to {target}")
    _fill(part, address, target, md5, progress)
    found = md5_file(part)
    if found != md5 and continued:  # the beginning may be another file's
        part.unlink()
        progress.say("the continued download has another MD5; beginning again")
        _fill(part, address, target, md5, progress)
        found = md5_file(part)
    if found != md5:
        part.unlink()
        raise DdimxError(
            f"{address} gave a file of MD5 {found} instead of {md5}; it was removed\n"
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
            _receive(part, address, progress)
        except _BrokenOff as error:
            reason = str(error)
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
        else:
            return
        finally:
            progress.stop()
        if _size(part) <= before:
            break
    kept = f"; {before} bytes are kept, the same command goes on from there" if before else ""
    raise DdimxError(f"cannot download {address}: {reason}{kept}\n{by_hand(target, md5)}")


def _receive(part: Path, address: str, progress: Progress) -> None:
    """Append what one connection gives."""
    have = _size(part)
    headers = {"User-Agent": "ddimx", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, headers=headers), timeout=TIMEOUT
        ) as answer:
            _append(part, answer, have, progress)
    except urllib.error.HTTPError as error:
        if error.code == _NOTHING_TO_ADD and have:
            return  # whether what is there is right, its MD5 will tell
        raise
    except urllib.error.URLError as error:
        raise _BrokenOff(str(error.reason)) from None
    except (HTTPException, ConnectionError, TimeoutError) as error:
        raise _BrokenOff(str(error) or type(error).__name__) from None


def _append(part: Path, answer: HTTPResponse, have: int, progress: Progress) -> None:
    """Write an answer's bytes; a server that ignores ranges sends the file from its beginning."""
    if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        have = 0
    length = answer.headers.get("Content-Length")
    total = have + int(length) if length else 0
    progress.start("downloading, MB", max(total >> 20, 1), have >> 20)
    done = have
    with part.open("r+b" if have else "wb") as stream:
        stream.seek(have)
        while chunk := _read(answer):
            stream.write(chunk)
            progress.advance((done + len(chunk) >> 20) - (done >> 20))
            done += len(chunk)
    if total and done < total:
        raise _BrokenOff(f"the connection ended after {done} of {total} bytes")


def _read(answer: HTTPResponse) -> bytes:
    try:
        return answer.read1(_CHUNK)
    except (HTTPException, OSError) as error:  # of the connection; writing raises elsewhere
        raise _BrokenOff(str(error) or type(error).__name__) from None


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one process at a time download a file; where locks do not exist, let all."""
    lock = target.with_name(target.name + ".lock")
    with lock.open("w") as stream:
        with suppress(ImportError):
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
    lock.unlink(missing_ok=True)  # after a success only, when nobody needs it any more
