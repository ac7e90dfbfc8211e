"""Regular expressions of the numbers between two bounds."""

from decimal import Decimal


def whole_numbers(low: int, high: int) -> str:
    """Return what matches the integers from ``low`` to ``high``, without leading zeros."""
    return _either(_signed(low, high, 0))


def decimal_numbers(low: Decimal, high: Decimal, decimals: int) -> str:
    """Return what matches the numbers between the bounds with up to so many decimals.

    Integers have no point; others end in no zero, so each number is written one way.
    """
    found: list[str] = []
    for places in range(decimals + 1):
        factor = Decimal(10) ** places
        first = int((low * factor).to_integral_value(rounding="ROUND_CEILING"))
        last = int((high * factor).to_integral_value(rounding="ROUND_FLOOR"))
        if first <= last:
            found += _signed(first, last, places)
    return _either(found)


def _either(found: list[str]) -> str:
    if not found:
        raise ValueError("there is no number within the bounds")
    return f"({'|'.join(found)})" if len(found) > 1 else found[0]


def _signed(low: int, high: int, places: int) -> list[str]:
    found = []
    if low < 0:
        # There is one zero only.
        found += [f"-{one}" for one in _unsigned(max(1, -high), -low, places)]
    if high >= 0:
        found += _unsigned(max(0, low), high, places)
    return found


def _unsigned(low: int, high: int, places: int) -> list[str]:
    """Return alternatives for ``low`` to ``high``, with a point before the last places."""
    found = []
    # One length of digits after the other.
    length = max(places + 1, len(str(low)))
    while low <= high:
        longest = _longest_full(low, high) if places == 0 else 0
        if longest > length:
            found.append(f"[1-9][0-9]{{{length - 1},{longest - 1}}}")
            low, length = 10**longest, longest + 1
            continue
        last = min(high, 10**length - 1)
        found += [
            written
            for one in _of_length(f"{low:0{length}}", f"{last:0{length}}")
            if (written := _pointed(one, places)) is not None
        ]
        low, length = last + 1, length + 1
    return found


def _longest_full(low: int, high: int) -> int:
    """Return the greatest length of digits up to which all numbers are there, from ``low`` on.

    It is 0 where ``low`` is not the first number of its length.
    """
    is_first = low == 10 ** (len(str(low)) - 1)
    return len(str(high + 1)) - 1 if is_first else 0


def _of_length(low: str, high: str) -> list[list[str]]:
    """Return lists of digits or classes of digits that make up the numbers of one length."""
    if not low:
        return [[]]
    if low[0] == high[0]:
        return [[low[0], *rest] for rest in _of_length(low[1:], high[1:])]
    zeros, nines, rest = "0" * (len(low) - 1), "9" * (len(low) - 1), ["[0-9]"] * (len(low) - 1)
    first, last, found = int(low[0]), int(high[0]), []
    if low[1:] != zeros:
        found += [[low[0], *tail] for tail in _of_length(low[1:], nines)]
        first += 1
    is_last_whole = high[1:] == nines
    if first <= last - (not is_last_whole):
        found.append([_digits(first, last - (not is_last_whole)), *rest])
    if not is_last_whole:
        found += [[high[0], *tail] for tail in _of_length(zeros, high[1:])]
    return found


def _digits(first: int, last: int) -> str:
    return str(first) if first == last else f"[{first}-{last}]"


def _pointed(digits: list[str], places: int) -> str | None:
    """Return the expression with its point; None where it would end in a zero."""
    if not places:
        return "".join(digits)
    end = digits[-1]
    if end == "0":
        return None
    if end.startswith("[0"):
        end = _digits(1, int(end[3]))
    return f"{''.join(digits[:-places])}\\.{''.join(digits[-places:-1])}{end}"
