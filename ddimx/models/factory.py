"""From ``model.name`` to a network and the process that trains and samples it."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from ..config import Config
from ..errors import UsageError, nearest
from .gaussian import GaussianProcess
from .octree.network import OctreeNet
from .octree.process import DiscreteProcess
from .process import Process
from .unet import UNet

ENTRY_POINTS = "ddimx.models"
# "discrete" is the seed project's name for its token model.
_BUILT_IN: dict[str, Any] = {"unet": UNet, "octree": OctreeNet, "discrete": OctreeNet}
_PROCESSES: dict[str, Any] = {"gaussian": GaussianProcess, "discrete": DiscreteProcess}


def build(config: Config) -> tuple[nn.Module, Process]:
    """Build the network of ``config.model.name`` (freshly initialised) and its process.

    A name is ours, an entry point of the group ``ddimx.models``, or ``package.module:Class``.
    The class needs ``from_config(config)``, and says in ``process`` (default "gaussian") which
    process it belongs to: a name of ours, or a class with ``from_config`` of its own.

    Raises:
        UsageError: an unknown name, a class that cannot be imported or lacks ``from_config``.
    """
    network = _network_class(config.model.name)
    process = getattr(network, "process", "gaussian")
    if isinstance(process, str):
        if process not in _PROCESSES:
            known = ", ".join(_PROCESSES)
            raise UsageError(f"{config.model.name}: unknown process '{process}'. Allowed: {known}.")
        process = _PROCESSES[process]
    return network.from_config(config), process.from_config(config)


def _network_class(name: str) -> Any:
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if ":" in name:
        return _checked(name, _imported(name))
    registered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in registered:
        return _checked(name, registered[name].load())
    known = sorted({*_BUILT_IN, *registered})
    raise UsageError(
        f"unknown model.name '{name}'{nearest(name, known)} "
        f"Allowed: {', '.join(known)}, or package.module:Class."
    )


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
