"""``ddimx prepare``: training sets that are made on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import options
from ..help import SETTINGS, VerbGroup, add_verb
from . import furniture, images, octrees

if TYPE_CHECKING:
    from ...progress import Progress
    from ...recipes.emoji.dataset import EmojiSet

CONFIGURED_OUT, CONFIGURED_SIZE = Path("data/emoji.npz"), 48  # what configs/emoji.yml expects

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, cls=VerbGroup, context_settings=SETTINGS
)


@app.callback()
def prepare() -> None:
    """Make a training set.

    Examples:

      ddimx prepare emoji && ddimx train --config emoji

      ddimx prepare images pictures pictures.npy --size 64
    """


add_verb(app, images.images)
add_verb(app, octrees.octrees)
add_verb(app, furniture.furniture)


def emoji(
    font: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A font with color bitmaps (default: the installed Noto Color Emoji).",
        ),
    ] = None,
    emoji_test: Annotated[
        Path | None,
        typer.Option(
            "--emoji-test",
            metavar="FILE",
            help="Unicode's list of emoji, emoji-test.txt (default: the installed one).",
        ),
    ] = None,
    out: Annotated[
        Path,
        options.shared("out", metavar="FILE", help="The file to write (default: data/emoji.npz)."),
    ] = CONFIGURED_OUT,
    size: Annotated[
        int,
        typer.Option(metavar="PIXELS", min=1, max=256, help="Width and height of an image."),
    ] = CONFIGURED_SIZE,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Also write a picture of a few emoji from every group."
        ),
    ] = None,
    overwrite: Annotated[
        bool, options.shared("overwrite", help="Replace existing files that differ.")
    ] = False,
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Make a training set from the emoji of a font.

    Draws every emoji on white, names its class after Unicode's groups and subgroups (smileys/cat,
    food/fruit, flags/country; 88 in all) and holds out 5 percent for validation, variants of one
    emoji together. The same font and list give the same file, byte for byte. Needs the Debian
    packages fonts-noto-color-emoji and unicode-data, or two files given here.

    Examples:

      ddimx prepare emoji && ddimx train --config emoji

      ddimx prepare emoji --preview emoji.png

      ddimx prepare emoji --font NotoColorEmoji.ttf --size 64 --out emoji64.npz
    """
    import hashlib

    from ...progress import Progress
    from ...recipes.emoji.dataset import extract, find_emoji_test, find_font, npz_bytes
    from ..output import print_json

    _check_targets(out, preview)
    sources = find_font(font), find_emoji_test(emoji_test)
    with Progress(quiet=quiet) as progress:
        data = extract(*sources, size=size, progress=_counter(progress))
        content = {out: npz_bytes(data)}
        if preview is not None:
            content[preview] = _sheet_png(data)
        written = _write_changed(content, overwrite=overwrite)
        summary = _summary(data) | {
            "path": str(out),
            "preview": None if preview is None else str(preview),
            "written": [str(path) for path in written],
            "sha256": hashlib.sha256(content[out]).hexdigest(),
        }
        progress.stop()  # so that the line stands below the bar
        progress.say(_line(summary, _next(out, size)))
    if json_output:
        print_json(summary)


def _check_targets(out: Path, preview: Path | None) -> None:
    """Refuse what can be seen to be wrong before anything is drawn."""
    import os

    from ...errors import UsageError

    for path in (out, preview):
        if path is not None and os.path.exists(path) and not os.path.isfile(path):
            raise UsageError(f"{path} exists and is not a plain file; give the name of a file")
    if preview is not None and preview.suffix.lower() != ".png":
        raise UsageError(f"--preview {preview}: the picture is a PNG, name it so: FILE.png")
    if preview is not None and os.path.realpath(preview) == os.path.realpath(out):
        raise UsageError(f"--preview and --out are the same file: {out}")


def _counter(progress: Progress) -> Callable[[int, int], None]:
    """Return what ``extract`` calls after each image; the bar begins with the first."""

    def count(done: int, total: int) -> None:
        if done == 1:
            progress.start("emoji", total)
        progress.advance()

    return count


def _sheet_png(data: EmojiSet) -> bytes:
    import io

    from ...recipes.emoji.dataset import contact_sheet

    stream = io.BytesIO()
    contact_sheet(data).save(stream, "PNG")
    return stream.getvalue()


def _write_changed(content: dict[Path, bytes], *, overwrite: bool) -> list[Path]:
    """Write the files that are not there yet with these bytes, and return them.

    Raises UsageError, before anything is written, if one is there with other bytes and
    ``overwrite`` is not set; DdimxError if a file cannot be read or written.
    """
    from ...errors import DdimxError, UsageError
    from ...files import sweep, write_bytes
    from ...runs.lock import lock_file

    for path in content:
        sweep(path.parent, path.name)
    there = {path: _bytes_of(path) for path in content}
    changed = [path for path in content if content[path] != there[path]]
    for path in changed:
        if there[path] is not None and not overwrite:
            raise UsageError(
                f"{path} exists and differs from what would be written; "
                "give --overwrite to replace it, or another name"
            )
    for path in changed:
        try:
            with lock_file(path):
                write_bytes(path, content[path])
        except (FileExistsError, NotADirectoryError) as error:
            raise DdimxError(f"cannot write {path}: {path.parent} is not a folder") from error
        except OSError as error:
            raise DdimxError(f"cannot write {path}: {error.strerror or error}") from error
    return changed


def _bytes_of(path: Path) -> bytes | None:
    """Return what a file holds, None if there is no such file."""
    from ...errors import DdimxError

    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DdimxError(f"cannot read {path}: {error.strerror or error}") from error


def _summary(data: EmojiSet) -> dict[str, Any]:
    import numpy as np

    from ...recipes.emoji.dataset import GROUPS, groups_of

    counts = np.bincount(groups_of(data.labels), minlength=len(GROUPS)).tolist()
    return {
        "images": len(data.images),
        "size": data.images.shape[1],
        "families": len(np.unique(data.families)),
        "held_out": int(data.held_out.sum()),
        "held_out_families": len(np.unique(data.families[data.held_out])),
        "groups": dict(zip(GROUPS, counts, strict=True)),
        "source": data.source,
    }


def _next(out: Path, size: int) -> str:
    """Return the command that trains on this file."""
    import shlex

    words = ["ddimx", "train", "--config", "emoji"]
    if out != CONFIGURED_OUT:
        words += ["--set", f"data.root={out}"]
    if size != CONFIGURED_SIZE:
        words += ["--set", f"data.image_size={size}"]
    return shlex.join(words)


def _line(summary: dict[str, Any], following: str) -> str:
    state = "" if summary["path"] in summary["written"] else " is up to date"
    return (
        f"{summary['path']}{state}: {summary['images']} images in {summary['families']} families, "
        f"{summary['held_out']} images held out, sha256 {summary['sha256']}; next: {following}"
    )


add_verb(app, emoji)
