"""YAML from outside: plain values, bounded in size, depth, digits and in what aliases stand for."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.composer import ComposerError

from . import limits


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text of plain values, lists and mappings.

    Aliases count as what they stand for. Tags (``!!python``, ``!!binary``), an alias of a value
    within itself, and a key given twice are refused, and integers of more than 64 bits.

    Raises:
        ValueError: it is not such a text, or longer or deeper than what is read.
    """
    if len(text.encode("utf-8", "surrogatepass")) > limits.YAML_BYTES:
        raise ValueError(f"longer than {limits.readable(limits.YAML_BYTES)}")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with bounds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._weights: dict[Any, int] = {}  # by anchor: how many values it stands for, once whole

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node; an alias counts as often as it is used."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._weights:
                self._refuse("a value that contains itself", event)
            self._count(self._weights.get(event.anchor, 1), event)
            return super().compose_node(parent, index)
        if event.tag is not None:
            self._refuse("a tag; only plain values are read", event)
        self._depth += 1
        if self._depth > limits.DEPTH:
            self._refuse(f"nested deeper than {limits.DEPTH} levels", event)
        before = self._values
        self._count(1, event)
        node: Any = super().compose_node(parent, index)
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
        if event.anchor is not None:
            self._weights[event.anchor] = self._values - before
        self._depth -= 1
        return node

    def _count(self, values: int, event: Any) -> None:
        self._values += values
        if self._values > limits.YAML_VALUES:
            self._refuse(f"more than {limits.YAML_VALUES} values, aliases included", event)

    def _check_keys(self, node: Any) -> None:
        names = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in names:
                    self._refuse("a key given twice", key)
                names.add((key.tag, key.value))

    def _refuse(self, reason: str, place: Any) -> None:
        raise ComposerError(None, None, reason, place.start_mark)


def _number(loader: _Loader, node: Any) -> Any:
    if len(node.value) > limits.NUMBER:
        raise ValueError(f"a number of more than {limits.NUMBER} characters")
    if node.tag.endswith(":float"):
        return loader.construct_yaml_float(node)
    value = loader.construct_yaml_int(node)
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError("an integer of more than 64 bits")
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _number)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)
