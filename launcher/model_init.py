"""What model.init says: a mapping with `model_type`, or the path of a .json file that holds one."""

import json
from pathlib import Path
from typing import Any


def values(init: Any) -> dict[str, Any]:
    """A copy; keys that begin with an underscore are for people."""
    found = dict(init) if not isinstance(init, str) else json.loads(Path(init).read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if not key.startswith("_")}
