"""``ddimx sample``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, unknown
from ..options import RunOptions
from ..runs.formats import FORMATS
from .verbs import Work, run_verb

if TYPE_CHECKING:
    from ..progress import Progress
    from ..sampling.run import SampleRequest
    from ..weights.model import Model


@run_verb()
def sample(options: RunOptions) -> Work:
    """Draw samples from a model into a run folder.

    Image i depends on the seed and on i alone: not on the batch size, the device or where a run
    was interrupted. The same command into the same --out goes on where it stopped.

    Examples:

      ddimx sample --steps 50

      ddimx sample --category flags --guidance 2 -n 64

      ddimx sample --solver unipc:2 --nfe 10

      ddimx sample --solver ddpm --steps 1000 --seed 3 --out runs/ddpm

      ddimx sample --explain --steps 10 --spacing quad

      ddimx sample --model furniture --category chair -n 4 --export 3dgs

      ddimx sample --model FOLDER_OR_ID --prompt "an astronaut riding a horse" -n 2
    """
    named = options.model is None or not Path(options.model).exists()
    if named and options.kind not in (None, *FORMATS):
        # A file may hold a kind of model with formats of its own.
        raise unknown("format", str(options.kind), FORMATS)
    if options.export is not None:
        from ..exporting.settings import named_formats

        named_formats([options.export])

    def request(model: Model, progress: Progress) -> SampleRequest:
        from ..sampling.run import SampleRequest, load_init_noise
        from ..sampling.settings import resolve

        kind = _format(options, model)
        path = None if options.init_noise is None else Path(options.init_noise)
        states = None if path is None else load_init_noise(path, model.process.shape)
        available = None if states is None else len(states)
        one = options.prompt is not None and options.count is None and available is None
        chosen = replace(options, count=1) if one else options
        settings = resolve(chosen, model, available=available)
        if options.labels and not model.classes:
            raise UsageError(f"--labels: model '{model.name}' has no classes")
        return SampleRequest(model, settings, kind, init_noise=path, labels=options.labels)

    def summary(record: dict[str, Any], where: Path) -> str:
        each = record["forward_passes_per_sample"]
        return (
            f"{where}: {record['count']} samples, {each} forward passes each, "
            f"{record['seconds']:.1f} s; see {where / 'grid.png'}"
        )

    def export(record: dict[str, Any], where: Path, progress: Progress) -> None:
        """Write the shapes as splats too; the run's manifest names them from then on."""
        from ..exporting.api import export as write
        from ..runs.record import write_record
        from ..runs.run import reporting

        assert options.export is not None
        with reporting(where):
            files = write(where, format=options.export.split(","), overwrite=options.overwrite)
            progress.say(f"{where}: {len(files)} files of splats ({options.export})")
            names = record.get("exported", [])
            record["exported"] = [*names, *(p.name for p in files if p.name not in names)]
            write_record(where, record)

    return Work(request, summary, export if options.export is not None else None)


def _format(options: RunOptions, model: Model) -> str:
    """Return the format to write; refuse what this kind of model does not have."""
    process = model.process
    draws = f"'{model.name}' draws {process.draws}"
    if options.init_noise is not None and not process.shape:
        raise UsageError(f"--init-noise is for images, and {draws}")
    if options.export is not None and process.draws != "octrees":
        raise UsageError(f"--export writes octrees as splats, and {draws}")
    kind = options.kind or process.formats[0]
    if kind not in (*process.formats, *FORMATS):
        raise unknown("format", kind, process.formats)
    if kind not in process.formats:
        splats = "; --export writes splats beside them" if process.draws == "octrees" else ""
        raise UsageError(
            f"--format {kind}: {draws}, which are written as {', '.join(process.formats)}{splats}"
        )
    return kind
