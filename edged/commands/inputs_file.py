"""What a specialist that writes is told beside the prompt, from a file."""

import json
from pathlib import Path
from typing import Any

from edged.errors import UsageError
from edged.protocol.inputs import check_inputs


def read_inputs(path: Path) -> dict[str, Any]:
    """Read the file of ``--inputs``.

    Raises:
        UsageError: It cannot be read, or a request could not have it.
    """
    try:
        return check_inputs(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--inputs: {path}: {error}") from error
