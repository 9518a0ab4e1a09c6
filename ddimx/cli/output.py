"""Results on stdout."""

from __future__ import annotations

import json
from typing import Any


def print_json(value: Any) -> None:
    """Print one JSON document, and nothing else, to stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))
