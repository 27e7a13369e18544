"""Compiled loops that several threads share: those that PyTorch multiplies matrices with, which are awake already.

Threads of numba's own would wait for a processor beside them. Where PyTorch's are not those of GNU OpenMP (its
`GOMP_parallel` starts them, https://gcc.gnu.org/onlinedocs/libgomp) one thread does everything.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from textgen.compiled import part

_FUNCTIONS = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
_BARRIER = "GOMP_barrier"
_NUMBER, _ADDRESS, _COUNT = ir.IntType(32), ir.IntType(8).as_pointer(), ir.IntType(64)


def _find_threads() -> bool:
    """Lets compiled code call functions of the library that PyTorch has loaded; says whether it can."""
    folder = Path(torch.__file__).parent
    for path in [*folder.glob("lib/libgomp*"), *folder.parent.glob("torch.libs/libgomp*")]:
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            for name in (*_FUNCTIONS, _BARRIER):
                binding.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
            return True
    for name in (*_FUNCTIONS, _BARRIER):  # compiled code names them, though it will not call them
        binding.add_symbol(name, ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value)
    return False


_FOUND = _find_threads()


def threads_for(entries: int, *, each: int) -> int:
    """How many threads are worth it for so many `entries`, of which one should have `each` at least."""
    return max(1, min(torch.get_num_threads(), entries // each)) if _FOUND else 1


@part
def bounds_of_part(number: int, parts: int, entries: int, grain: int) -> tuple[int, int]:
    """The first entry of part `number` (from 0), and the one behind its last: multiples of `grain`, or the end.

    Whole rows, or many entries: two processors that write to one line of the cache wait for each other.
    """
    size = -(-entries // parts)
    size += -size % grain
    return min(number * size, entries), min((number + 1) * size, entries)


def _borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """`value` as one that nobody counts: whoever lends it waits, and counting would be done by all threads in turns."""
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = ir.Constant(array.meminfo.type, None)
    return array._getvalue()


@intrinsic
def _in_parts(_context: Any, function: Any, threads: Any, arguments: Any) -> Any:
    signature = function.get_call_type(_context, (types.intp, types.intp, *arguments.types), {})

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        compiled = function.dispatcher.get_compile_result(signature)
        context.add_linking_libs([compiled.library])
        _, count, packed = given

        def call(at: Any, number: Any, parts: Any, values: Any) -> None:
            each = [
                _borrowed(context, at, kind, at.extract_value(values, place))
                for place, kind in enumerate(arguments.types)
            ]
            context.call_internal_no_propagate(at, compiled.fndesc, signature, [number, parts, *each])

        module = builder.module
        body = ir.Function(module, ir.FunctionType(ir.VoidType(), [_ADDRESS]), module.get_unique_name("part"))
        body.linkage = "internal"
        start_type = ir.FunctionType(ir.VoidType(), [body.type, _ADDRESS, _NUMBER, _NUMBER])
        kinds = (start_type, ir.FunctionType(_NUMBER, []), ir.FunctionType(_NUMBER, []))
        start, number_of, count_of = (
            module.globals.get(name) or ir.Function(module, kind, name)
            for name, kind in zip(_FUNCTIONS, kinds, strict=True)
        )
        inner = ir.IRBuilder(body.append_basic_block())
        number, parts = (inner.sext(inner.call(one, []), _COUNT) for one in (number_of, count_of))
        call(inner, number, parts, inner.load(inner.bitcast(body.args[0], packed.type.as_pointer())))
        inner.ret_void()
        with builder.if_else(builder.icmp_signed("==", count, _COUNT(1))) as (alone, together):
            with alone:
                call(builder, _COUNT(0), _COUNT(1), packed)
            with together:
                held = builder.alloca(packed.type)
                builder.store(packed, held)
                builder.call(start, [body, builder.bitcast(held, _ADDRESS), builder.trunc(count, _NUMBER), _NUMBER(0)])
        return context.get_dummy_value()

    return types.void(function, threads, arguments), generate


# For compiled code, `in_parts(function, threads, (a, b))`: each of the threads calls function(number, parts, a, b), a
# compiled function that raises nothing. The parts may be fewer than the threads.
in_parts: Any = _in_parts


@intrinsic
def _wait_for_others(_context: Any, parts: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        module = builder.module
        wait = module.globals.get(_BARRIER) or ir.Function(module, ir.FunctionType(ir.VoidType(), []), _BARRIER)
        with builder.if_then(builder.icmp_signed(">", given[0], _COUNT(1))):
            builder.call(wait, [])
        return context.get_dummy_value()

    return types.void(parts), generate


# For a function that `in_parts` calls, `wait_for_others(parts)`: goes on once all parts have come so far.
wait_for_others: Any = _wait_for_others
