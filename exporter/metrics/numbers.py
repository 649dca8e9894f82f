"""Pure: numbers as text, exactly as prometheus_client writes them, which is how Go prints a float.

Finding the shortest digits of a float is most of the cost of a sample. msgspec finds them faster than ``repr``,
and faster still for a list of floats at once: `number_texts` encodes a whole column as one JSON array. It falls
back to `number_text` where JSON and Go write a number differently (exponents, NaN, infinity). The benchmark
``numbers`` compares whole pages (benchmarks/results/numbers.md); tests compare both functions with the client on
any number.
"""

from collections.abc import Sequence
from math import inf, isnan

import msgspec

_encode = msgspec.json.Encoder().encode
_EXPONENTS = tuple(f"e+{digits - 1:02d}" for digits in range(17))


def repr_text(value: float) -> str:
    """``repr`` of a float, from msgspec where that is certain to be the same."""
    return _encode(value).decode() if 1e-4 <= value < 1e16 else repr(value)


def number_text(value: float) -> str:
    """A number as the exposition formats write it."""
    value = float(value)
    text = repr_text(value)
    if -1e6 < value < 1e6:
        return text
    if 1e6 <= value < 1e16:  # Go switches to exponents at a smaller number than Python; Unix times come here
        digits = text.replace(".", "")
        return f"{digits[0]}.{digits[1:]}".rstrip("0.") + _EXPONENTS[text.index(".")]
    if value in (inf, -inf):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if isnan(value) else text


def number_texts(values: Sequence[float]) -> list[str]:
    """`number_text` of each value, in one step where all values are alike, as those of one family mostly are."""
    if not values:
        return []
    texts = _encode(list(map(float, values)))[1:-1].decode()
    # The fast ways below are wrong for signs, exponents, null (NaN, infinity), and fractions so small that Python
    # writes them with an exponent.
    if not ("-" in texts or "e" in texts or "n" in texts or "0.0000" in texts):
        highest = max(values)
        if highest < 1e6:
            return texts.split(",")
        if highest < 1e10 and min(values) >= 1e9:  # Unix times
            every = texts.replace(".", "").split(",")
            return [f"{digits[0]}.{digits[1:]}".rstrip("0.") + "e+09" for digits in every]
    return [number_text(value) for value in values]
