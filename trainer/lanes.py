"""Vectors of float32 as values in compiled loops: as many numbers as a register holds, its lanes.

LLVM makes vectors out of simple loops by itself, but not tiles of sums that stay in registers. A change here needs one
in the loops' own file too, since numba's cache looks at no other. Knows no matrices.
"""

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model


def _has_avx512() -> bool:
    try:
        return bool(llvm.get_host_cpu_features().get("avx512f"))
    except RuntimeError:  # LLVM cannot ask some processors
        return False


LANES = 16 if _has_avx512() else 8  # on a processor with narrower registers, LLVM takes several
PAIR = 2 * LANES  # numbers that `load_first` and `load_second` load together
WORD = ir.IntType(32)
FLOATS, WORDS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(WORD, LANES)
BYTES = ir.IntType(8).as_pointer()
CONTRACT = ("contract",)  # a product and a sum may become one operation, rounded once


class Lanes(types.Type):
    """numba's type of such a vector."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """A vector is a value of LLVM's vector type."""

    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, FLOATS)  # type: ignore[no-untyped-call]


lanes: Any = Lanes()


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _broadcast(typing: Any, number: Any) -> Any:
    """A float32 in all lanes."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        undefined = ir.Constant(FLOATS, ir.Undefined)
        first = builder.insert_element(undefined, arguments[0], WORD(0))
        return builder.shuffle_vector(first, undefined, ir.Constant(WORDS, [0] * LANES))

    return lanes(types.float32), code


def _multiply_add(typing: Any, first: Any, second: Any, third: Any) -> Any:
    """first * second + third, lane by lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        product = builder.fmul(arguments[0], arguments[1], flags=CONTRACT)
        return builder.fadd(product, arguments[2], flags=CONTRACT)

    return lanes(lanes, lanes, lanes), code


def _load_first(typing: Any, array: Any, index: Any) -> Any:
    """The first vector of a pair, from `index` on in a contiguous array: of float32 the first LANES numbers, of
    bfloat16 those at even indices, the lower halves of words."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, start = arguments
        if array.dtype == types.float32:
            return builder.load(_pointer(context, builder, array, values, start, FLOATS), align=4)
        words = builder.load(_pointer(context, builder, array, values, start, WORDS), align=2)
        return builder.bitcast(builder.shl(words, ir.Constant(WORDS, [16] * LANES)), FLOATS)

    return lanes(array, types.intp), code


def _load_second(typing: Any, array: Any, index: Any) -> Any:
    """The second vector of the pair: the numbers that are not in the first."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, start = arguments
        if array.dtype == types.float32:
            start = builder.add(start, start.type(LANES))
            return builder.load(_pointer(context, builder, array, values, start, FLOATS), align=4)
        words = builder.load(_pointer(context, builder, array, values, start, WORDS), align=2)
        return builder.bitcast(builder.and_(words, ir.Constant(WORDS, [0xFFFF0000] * LANES)), FLOATS)

    return lanes(array, types.intp), code


def _store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write a vector into a contiguous array of float32, from `index` on."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, start, vector = arguments
        builder.store(vector, _pointer(context, builder, array, values, start, FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), code


def _prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Ask for the memory around an element of a contiguous array to be brought nearer; it may be beyond the end."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, start = arguments
        kind = ir.FunctionType(ir.VoidType(), [BYTES, WORD, WORD, WORD])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [BYTES], kind)
        pointer = _pointer(context, builder, array, values, start, ir.IntType(8))
        builder.call(prefetch, [pointer, WORD(0), WORD(3), WORD(1)])  # to read it, soon, of data
        return context.get_dummy_value()

    return types.void(array, types.intp), code


# Variables, not decorated functions: numba's type hints would ask callers for the argument `typing`.
broadcast: Any = intrinsic(_broadcast)
multiply_add: Any = intrinsic(_multiply_add)
load_first: Any = intrinsic(_load_first)
load_second: Any = intrinsic(_load_second)
prefetch: Any = intrinsic(_prefetch)
store: Any = intrinsic(_store)
