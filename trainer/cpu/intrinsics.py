"""Building blocks of compiled loops that numba lacks: bfloat16, and tiles of sums that stay in registers.

numpy has no bfloat16: here it is uint16, the upper halves of float32's bits. Matrices are read in words of 32 bits: one
number of float32, or two neighbours of bfloat16.
"""

from collections.abc import Callable
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


LANES, NOTES = (16, 8) if _has_avx512() else (8, 4)  # as many as there are registers for
PAIR = 2 * LANES  # numbers of a tile's row
BIT16, WORD, FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()
FLOATS, WORDS = ir.VectorType(FLOAT, LANES), ir.VectorType(WORD, LANES)
CONTRACT = ("contract",)  # a product and a sum may become one operation, rounded once
DOT = "llvm.x86.avx512bf16.dpbf16ps.512"  # 16 sums of two products of bfloat16 each


def _unchanged(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return arguments[0]


def _to_float32(typing: Any, value: Any) -> Any:
    """Convert to float32: an element of a float32 or bfloat16 array, or the bits of one, int32."""

    def of_bits(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], FLOAT)

    def of_bfloat16(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.shl(builder.zext(arguments[0], WORD), WORD(16)), FLOAT)

    code = {types.float32: _unchanged, types.uint16: of_bfloat16, types.int32: of_bits}.get(value)
    return None if code is None else (types.float32(value), code)


def _to_dtype_of(typing: Any, number: Any, array: Any) -> Any:
    """Convert a float32 to an element of `array`: float32 as it is, or the nearest bfloat16, of two the even one."""

    def to_bfloat16(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], WORD)
        odd = builder.and_(builder.lshr(bits, WORD(16)), WORD(1))
        rounded = builder.add(bits, builder.add(odd, WORD(0x7FFF)))
        return builder.trunc(builder.lshr(rounded, WORD(16)), BIT16)

    return array.dtype(types.float32, array), _unchanged if array.dtype == types.float32 else to_bfloat16


def _word_size(typing: Any, array: Any) -> Any:
    """The elements of an array that are in a word: a number that is known when the loop is compiled."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.get_constant(types.intp, WORD.width // array.dtype.bitwidth)

    return types.intp(array), code


class Tile(types.Type):
    """numba's type of a tile: float32 sums, (note, PAIR), as two vectors a note."""

    def __init__(self, notes: int) -> None:
        super().__init__(name=f"Tile({notes})")
        self.notes = notes


@register_model(Tile)
class TileModel(models.PrimitiveModel):
    """LLVM keeps the elements of such an array in registers of their own."""

    def __init__(self, manager: Any, tile: Any) -> None:
        super().__init__(manager, tile, ir.ArrayType(FLOATS, 2 * tile.notes))  # type: ignore[no-untyped-call]


def _empty_tile(typing: Any, notes: Any) -> Any:
    """A tile of zeros for a number of notes that is known when the loop is compiled."""
    if not isinstance(notes, types.IntegerLiteral):
        return None
    tile = Tile(notes.literal_value)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(tile), None)

    return tile(notes), code


def _add_products(typing: Any, tile: Any, x: Any, note: Any, weights: Any, column: Any) -> Any:
    """Add the products of a word of each of the tile's notes and the words of a block of weights at one column.

    x (note, column) and `weights`, a block in the order of `pack`, are contiguous and of one dtype. The tile's notes
    are those from `note` on; where there are no more, the last one again.
    """
    is_float32 = weights.dtype == types.float32
    words, size = (FLOATS, 4) if is_float32 else (WORDS, 2)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, rows, first, block, start = arguments
        add_product = _multiply_add if is_float32 else _pairs_adder(context)
        pointer = _pointer(context, builder, weights, block, builder.mul(start, start.type(PAIR)), words)
        pair = [builder.load(builder.gep(pointer, [WORD(half)]), align=size) for half in range(2)]
        shape = context.make_array(x)(context, builder, rows).shape
        notes, width = (builder.extract_value(shape, axis) for axis in range(2))
        last = builder.sub(notes, notes.type(1))
        for note_index in range(tile.notes):
            row = builder.add(first, first.type(note_index))
            row = builder.select(builder.icmp_signed("<", row, last), row, last)
            index = builder.add(builder.mul(row, width), start)
            word = builder.load(_pointer(context, builder, x, rows, index, words.element), align=size)
            number = _broadcast(builder, word, words)
            for element, vector in enumerate(pair, 2 * note_index):
                total = add_product(builder, number, vector, builder.extract_value(sums, element))
                sums = builder.insert_value(sums, total, element)
        return sums

    return tile(tile, x, types.intp, weights, types.intp), code


def _prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Begin to bring an element into the cache, where it will be read soon. It may lie beyond the end of the array."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, element = arguments
        pointer = _pointer(context, builder, array, values, element, ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, WORD, WORD, WORD])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(function, [pointer, WORD(0), WORD(3), WORD(1)])  # for reading, to the nearest cache, as data
        return context.get_dummy_value()

    return types.void(array, types.intp), code


def _store_tile(typing: Any, tile: Any, array: Any) -> Any:
    """Write a tile into a contiguous float32 array, (note, PAIR)."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, values = arguments
        pointer = _pointer(context, builder, array, values, context.get_constant(types.intp, 0), FLOATS)
        for element in range(2 * tile.notes):
            vector = builder.gep(pointer, [WORD(element)])
            builder.store(builder.extract_value(sums, element), vector, align=4)
        return context.get_dummy_value()

    return types.void(tile, array), code


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, element: Any) -> Any:
    """A pointer to an element of a contiguous array, as one to `element`."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), element.as_pointer())


def _broadcast(builder: Any, word: Any, words: Any) -> Any:
    """A word in all lanes."""
    undefined = ir.Constant(words, ir.Undefined)
    first = builder.insert_element(undefined, word, WORD(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(WORDS, [0] * LANES))


def _multiply_add(builder: Any, first: Any, second: Any, third: Any) -> Any:
    """first * second + third, lane by lane."""
    return builder.fadd(builder.fmul(first, second, flags=CONTRACT), third, flags=CONTRACT)


def _pairs_adder(context: Any) -> Callable[[Any, Any, Any, Any], Any]:
    """The function that does for words of two bfloat16 numbers as `_multiply_add`: both products, the uppers' first.

    Processors with AVX512-BF16 have it as one instruction. It counts numbers below 2^-126 as zeros; elsewhere they are
    multiplied like all others.
    """

    def in_one(builder: Any, first: Any, second: Any, third: Any) -> Any:
        dot = builder.module.declare_intrinsic(DOT, (), ir.FunctionType(FLOATS, [FLOATS, WORDS, WORDS]))
        return builder.call(dot, [third, first, second])

    def one_by_one(builder: Any, first: Any, second: Any, third: Any) -> Any:
        uppers, lowers = ir.Constant(WORDS, [0xFFFF0000] * LANES), ir.Constant(WORDS, [16] * LANES)
        for part, by in ((builder.and_, uppers), (builder.shl, lowers)):
            numbers, others = (builder.bitcast(part(words, by), FLOATS) for words in (first, second))
            third = _multiply_add(builder, numbers, others, third)
        return third

    _, _, features = context.codegen().magic_tuple()  # of the processor for which numba compiles
    return in_one if LANES == 16 and "+avx512bf16" in features else one_by_one


# Variables, not decorated functions: numba's type hints would ask callers for the argument `typing`.
to_float32: Any = intrinsic(_to_float32)
to_dtype_of: Any = intrinsic(_to_dtype_of)
word_size: Any = intrinsic(_word_size)
empty_tile: Any = intrinsic(_empty_tile)
add_products: Any = intrinsic(_add_products)
store_tile: Any = intrinsic(_store_tile)
prefetch: Any = intrinsic(_prefetch)
