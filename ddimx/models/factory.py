"""From ``model.name`` to a network and the process that trains and samples it."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from torch import nn

from ..config import Config
from ..errors import UsageError, nearest
from .edm import EdmUNet
from .gaussian import GaussianProcess
from .guided import GuidedUNet
from .lucidrains import LucidrainsUNet
from .octree.network import OctreeNet
from .octree.process import DiscreteProcess
from .process import Process
from .unet import UNet

ENTRY_POINTS = "ddimx.models"
# "discrete" is the seed project's name for its token model.
_BUILT_IN: dict[str, Any] = {
    "unet": UNet,
    "guided": GuidedUNet,
    "lucidrains": LucidrainsUNet,
    "song": EdmUNet,
    "dhariwal": EdmUNet,
    "octree": OctreeNet,
    "discrete": OctreeNet,
}
_PROCESSES: dict[str, Any] = {"gaussian": GaussianProcess, "discrete": DiscreteProcess}


def build(
    config: Config, *, trust_code: bool = False, named_in: str | Path = "the configuration"
) -> tuple[nn.Module, Process]:
    """Build the network of ``config.model.name`` (freshly initialized) and its process.

    A name is ours, an entry point of the group ``ddimx.models``, or ``package.module:Class``.
    The class needs ``from_config(config)``, and says in ``process`` (default "gaussian") which
    process it belongs to: a name of ours, or a class with ``from_config`` of its own.

    Args:
        trust_code, named_in: as for :func:`check_trusted`.

    Raises:
        UsageError: an unknown name, a class that is not trusted, cannot be imported or lacks
            ``from_config``.
    """
    check_trusted(config, trust_code=trust_code, named_in=named_in)
    network = _network_class(config.model.name)
    process = getattr(network, "process", "gaussian")
    if isinstance(process, str):
        if process not in _PROCESSES:
            names = ", ".join(_PROCESSES)
            raise UsageError(f"{config.model.name}: unknown process '{process}'. Allowed: {names}.")
        process = _PROCESSES[process]
    return network.from_config(config), process.from_config(config)


def check_trusted(config: Config, *, trust_code: bool, named_in: str | Path) -> None:
    """Refuse a ``package.module:Class`` unless the user said that it may be imported.

    Importing a module runs it, and a configuration may come from a stranger.
    What a package registered when it was installed needs no such word.

    Args:
        trust_code: whether this very command, or call, says so.
        named_in: the file that names the class, for the message.

    Raises:
        UsageError: with the class, the file and the option.
    """
    name = config.model.name
    if ":" in name and not trust_code:
        raise UsageError(
            f"{named_in} names the network '{name}', and to import it is to run its module: if you "
            "trust that code, give --trust-code (in Python: trust_code=True)"
        )


def _network_class(name: str) -> Any:
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if ":" in name:
        return _checked(name, _imported(name))
    with _installed_only():
        entries = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
        if name in entries:
            return _checked(name, entries[name].load())
    names = sorted({*_BUILT_IN, *entries})
    raise UsageError(
        f"unknown model.name '{name}'{nearest(name, names)} "
        f"Allowed: {', '.join(names)}, or package.module:Class."
    )


@contextmanager
def _installed_only() -> Iterator[None]:
    """Hide the current folder from imports: what lies there registers itself by lying there.

    ``python -m`` and an interactive Python put it before the standard library in ``sys.path``,
    installations (also editable ones) put their folders behind.
    """
    folder, paths = os.path.realpath(os.curdir), sys.path[:]
    library = sysconfig.get_path("stdlib")
    first = paths.index(library) if library in paths else len(paths)
    front = [entry for entry in paths[:first] if os.path.realpath(entry or os.curdir) != folder]
    sys.path[:] = [*front, *paths[first:]]
    try:
        yield
    finally:
        sys.path[:] = paths


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise UsageError(f"model.name '{name}': write package.module:Class")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"model.name '{name}' cannot be imported: {error}") from None


def _checked(name: str, network: Any) -> Any:
    if not callable(getattr(network, "from_config", None)):
        raise UsageError(f"model.name '{name}': the class needs a method from_config(config)")
    return network
