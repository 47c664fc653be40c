"""Money: integer nano-USD (1e-9 USD), and the one place where it is rounded.

Amounts are plain `int`s named `..._nanos`. No float ever holds money: text is parsed with `decimal`, and text is
printed from the integer.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

NANOS_PER_USD = 1_000_000_000

ACCOUNT_NANOS_MAX = 2**53 - 1
"""The most one account can hold, about 9 million USD: Redis's Lua counts in doubles, exact to 2^53."""


def divide_up(numerator: int, denominator: int) -> int:
    """`numerator / denominator` rounded up: the one rounding of money, always in the direction of not undercharging."""
    return -(-numerator // denominator)


# Decimal() alone would also take "nan", "1_0" and the digits of every script.
NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NUMBER_CHARS_MAX = 64
_EXPONENT_MAX = 30


def parse_decimal(text: str) -> Decimal:
    """The finite decimal number in `text`, exactly: `"10"`, `"0.25"`, `"1e-3"`. Raises `ValueError`."""
    if len(text) > _NUMBER_CHARS_MAX:
        raise ValueError(f"{text[:_NUMBER_CHARS_MAX]!r}... is too long for a number")
    if NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a number")
    try:
        amount = Decimal(text)
    except InvalidOperation:  # an exponent beyond what Decimal can hold
        raise ValueError(f"{text!r} is out of range") from None
    # The exponent is bounded before any arithmetic, so that "1e999999999" costs nothing.
    if amount and abs(amount.adjusted()) > _EXPONENT_MAX:
        raise ValueError(f"{text!r} is out of range")
    return amount


def parse_usd(text: str) -> int:
    """Nano-USD of a decimal number of dollars such as `"10"`, `"0.25"`, `"1e-3"`.

    Raises `ValueError` for anything that is not a finite number that nano-USD can hold exactly.
    """
    numerator, denominator = parse_decimal(text).as_integer_ratio()
    nanos, rest = divmod(numerator * NANOS_PER_USD, denominator)
    if rest:
        raise ValueError(f"{text!r} is finer than a billionth of a dollar")
    return nanos


def format_usd(nanos: int) -> str:
    """Dollars as text, exact, with at least two decimals: `10_000_000_000` -> `"10.00"`, `37_500` -> `"0.0000375"`.

    The text is a JSON number as it stands.
    """
    sign = "-" if nanos < 0 else ""
    dollars, fraction = divmod(abs(nanos), NANOS_PER_USD)
    digits = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{dollars}.{digits}"
