"""Arithmetic for compiled loops that are to be made parallel: without a branch or a call."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from textgen.compiled import part


@intrinsic
def _float_of_bits(_context: Any, _bits: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


_bits_as_float: Any = _float_of_bits


def _power_of_two(exponent: Any) -> Any:
    """2^exponent of a float32 that is not above 0, to about 1e-7; what is below 2^-126 is 2^-126.

    It is 2^n · 2^f, n a whole number and |f| ≤ 1/2, where 2^f is the beginning of its Taylor series.
    """
    exponent = max(exponent, np.float32(-126.0))
    power = np.int32(exponent - np.float32(0.5))
    f = exponent - np.float32(power)
    value = np.float32(1.5403530e-4)
    value = value * f + np.float32(1.3333558e-3)
    value = value * f + np.float32(9.6181291e-3)
    value = value * f + np.float32(5.5504109e-2)
    value = value * f + np.float32(2.4022651e-1)
    value = value * f + np.float32(6.9314718e-1)
    value = value * f + np.float32(1.0)
    return value * _bits_as_float((power + np.int32(127)) << np.int32(23))


# Written out in the loop that uses it, and made parallel with it.
power_of_two: Any = part(_power_of_two, inline="always")
