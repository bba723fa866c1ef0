import pytest
import torch

from eutectic.methods.declare import Laws, Needs, Paper, combine
from eutectic.methods.extras import BIT, Extra, Outputs, number

LAWS = Laws(symmetric=True, fixed_point=True, identity=True, shift=True, scale=True)


def rank(shape: tuple[int, ...], n: int) -> tuple[int, ...] | None:
    """The left factor of each model, for matrices alone."""
    return (shape[0], min(shape) // n) if len(shape) == 2 else None


def test_sizes_of_bits() -> None:
    """A slice of 20 elements takes 3 bytes a model, and starts at an eighth of its element; a tensor of 77, 10."""
    mask = Extra("mask", BIT)
    assert mask.elementwise
    assert mask.stored((7, 11), 3) == (10,)
    assert mask.nbytes(65536, 20, (7, 11), 3) == 3
    assert mask.first_byte(65536) == 8192
    assert mask.stored((), 3) == (1,)
    assert mask.nbytes(0, 0, (0, 4), 3) == 0


def test_sizes_of_elements_and_matrices() -> None:
    """Elements go with their slice; what has a shape of its own goes with the first slice, and begins at its start."""
    values, left, scale = Extra("values", "BF16"), Extra("left", "F32", rank), Extra("scale", "F64", number)
    assert (values.stored((4, 6), 2), values.nbytes(8, 5, (4, 6), 2), values.first_byte(8)) == ((4, 6), 10, 16)
    assert left.stored((4, 6), 2) == (4, 2)
    assert left.stored((6,), 2) is None
    assert (left.nbytes(0, 24, (4, 6), 2), left.nbytes(0, 6, (6,), 2), left.nbytes(8, 8, (4, 6), 2)) == (32, 0, 0)
    assert (scale.stored((4, 6), 2), scale.nbytes(0, 3, (4, 6), 2), scale.first_byte(65536)) == ((), 8, 0)


def test_what_cannot_be_declared() -> None:
    """Unknown types, bits with a shape, and extras without the way back are mistakes of whoever writes the method."""
    with pytest.raises(TypeError, match="expected bits an element, or one of"):
        Extra("mask", "BOOL")
    with pytest.raises(TypeError, match="expected bits an element"):
        Extra("mask", BIT, number)
    paper = Paper("arXiv:0", "None", 2026)
    with pytest.raises(TypeError, match="or neither"):
        combine(paper, needs=Needs(), laws=LAWS, extras=(Extra("mask", BIT),))
    with pytest.raises(TypeError, match="or neither"):
        combine(paper, needs=Needs(), laws=LAWS, specialise=lambda base, merged, extras: merged)


def test_outputs_of_a_method_without_extras() -> None:
    """A method that returns a tensor has that one output."""
    made = Outputs(torch.ones(2))
    assert made.extras == {}
