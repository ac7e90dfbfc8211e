"""Read the JSON that a model wrote."""

import json
import math
from typing import Any


def read_answer(text: str) -> Any:  # noqa: ANN401 - any JSON
    """Return the value of an answer.

    Raises:
        ValueError: It is no JSON, or has a number for which no reply has a value.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, parse_float=_finite)


def _finite(digits: str) -> float:
    """Return a number.

    Raises:
        ValueError: It is out of the range of a double.
    """
    value = float(digits)
    if math.isinf(value):
        raise ValueError
    return value
