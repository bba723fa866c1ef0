"""Instructions for compiled loops that numba has no words for."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _bitcast(result: Any, argument: Any, kind: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.bitcast(arguments[0], kind)

    return result(argument), generate


def _lowest_bit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
    return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))


def _widest(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
    # Attributes are strings that are printed as they are; llvmlite lists only those without a value.
    set.add(builder.function.attributes, '"prefer-vector-width"="512"')
    return context.get_dummy_value()


#: Lets a function use the widest registers that the processor has: compilers hold back on some that have 512 bits.
widest: Any = intrinsic(lambda typing: (types.void(), _widest))  # noqa: ARG005
#: The float32 with these bits.
as_float: Any = intrinsic(lambda typing, x: _bitcast(types.float32, types.uint32, ir.FloatType()))  # noqa: ARG005
#: The bits of this float32.
as_bits: Any = intrinsic(lambda typing, x: _bitcast(types.uint32, types.float32, ir.IntType(32)))  # noqa: ARG005
#: The place of the lowest bit that is set.
first_bit: Any = intrinsic(lambda typing, x: (types.int64(types.uint64), _lowest_bit))  # noqa: ARG005
