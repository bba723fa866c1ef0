"""CAT by hand, against the problem it solves, in a merge, and where it does nothing."""

import math
from typing import Any

import pytest
import torch

from eutectic.layout.roles import Role
from eutectic.methods import get
from eutectic.methods.site import Site
from eutectic.numerics.draw import Key
from eutectic.plan.domains import apply_domains
from eutectic.stats.store import Measured
from tests.make.sites import merge, resolve, table

CAT = get("cat")
TRIED = {"directions": [0, 1, 5], "balance": [0.0, 0.3]}
PLAIN: dict[str, Any] = {
    "directions": 1,
    "balance": 0.0,
    "positive_only": False,
    "preserve_norm": False,
    "scores": "sum",
}


def trim(
    moves: torch.Tensor, inputs: list[torch.Tensor] | None, name: str = "w", axis: int = 1, **values: Any
) -> torch.Tensor:
    """Trims movements, given the rows that each task's tensor multiplies."""
    results: dict[str, Any] = {}
    if inputs is not None and moves.dim() > 2:
        results["gram"] = tuple(Measured.of(x.mT @ x, x.shape[-2], axis) for x in inputs)
    elif inputs is not None:
        sums = (torch.stack([x.sum(0), x.square().sum(0)]) for x in inputs)
        results["scales"] = tuple(Measured.of(each, len(x), 0) for each, x in zip(sums, inputs, strict=True))
    site = Site(name, len(moves), Key(0, name), results, moves, torch.zeros(moves.shape[1:]), are_deltas=True)
    found: torch.Tensor = CAT(site, **{**PLAIN, **values})
    return found


def test_a_map_by_hand() -> None:
    """Two tasks, two inputs, two outputs; task 0 shows (1 0) alone and task 1 (0 1) alone.

    Task 1 disturbs task 0 by its first column (3 4), so G_0 = (3 4)^T (3 4), and along (0.6 0.8) it is taken out: of
    (3 4) nothing stays, of the second column (5 0) that is 3 * (0.6 0.8) = (1.8 2.4), and (3.2 -2.4) stays. Task 0
    disturbs task 1 by its second column (0 2): its second output is taken out.
    """
    moves = torch.stack([table((1, 0), (7, 2)), table((3, 5), (4, 0))])
    got = trim(moves, [table((1, 0)), table((0, 1))])
    assert torch.allclose(got, torch.stack([table((1, 0), (0, 0)), table((0, 3.2), (0, -2.4))]), atol=1e-6)
    back = trim(moves, [table((1, 0)), table((0, 1))], preserve_norm=True)
    assert torch.allclose(back.flatten(1).norm(dim=1), moves.flatten(1).norm(dim=1))
    assert torch.allclose(back[1] / back[1].norm(), got[1] / got[1].norm())


def test_the_order_of_tasks_counts() -> None:
    """Three tasks, all found from the first movements, then applied one after another, as the loop here does."""
    generator = torch.Generator().manual_seed(0)
    moves = torch.randn(3, 5, 6, generator=generator).double()
    inputs = [torch.randn(9, 6, generator=generator).double() for _ in range(3)]
    grams = [x.T @ x for x in inputs]
    left = list(moves)
    for k in range(3):
        others = [i for i in range(3) if i != k]
        total = torch.stack([moves[i] @ (grams[k] - 0.7 * grams[i]) @ moves[i].T for i in others]).sum(0)
        vectors = torch.linalg.eigh(total).eigenvectors[:, -2:]
        for i in others:
            left[i] = left[i] - vectors @ vectors.T @ left[i]
    got = trim(moves, inputs, directions=2, balance=0.7)
    assert torch.allclose(got, torch.stack(left), atol=1e-9)
    assert not torch.allclose(trim(moves.flip(0), inputs[::-1], directions=2, balance=0.7).flip(0), got, atol=1e-3)


def test_no_other_directions_do_better() -> None:
    """Of what they take from disturbance less what they cost, of 300 random ones: |X_k T^T B|^2 - |X_i T^T B|^2."""
    generator = torch.Generator().manual_seed(1)
    moves = torch.randn(2, 6, 7, generator=generator).double()
    inputs = [torch.randn(20, 7, generator=generator).double() for _ in range(2)]
    left = trim(moves, inputs, directions=2, balance=0.3)[1]

    def gained(stays: torch.Tensor) -> float:
        taken = moves[1] - stays
        return float((inputs[0] @ taken.T).square().sum() - 0.3 * (inputs[1] @ taken.T).square().sum())

    best = gained(left)
    for _ in range(300):
        basis = torch.linalg.qr(torch.randn(6, 2, generator=generator).double()).Q
        assert gained(moves[1] - basis @ basis.T @ moves[1]) <= best + 1e-9


def test_only_what_disturbs() -> None:
    """At a balance of 100 every direction costs more than it takes: with `positive_only` nothing is taken out."""
    moves = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(2))
    inputs = [torch.randn(8, 5, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)]
    assert torch.equal(trim(moves, inputs, balance=100.0, positive_only=True), moves)
    assert not torch.equal(trim(moves, inputs, balance=100.0), moves)
    assert torch.equal(trim(moves, inputs, directions=0), moves)


def test_scales_by_hand() -> None:
    """Squares 4, 1 of task 0 and 1, 1 of task 1, whose movements are (1 3) and (2 3).

    Task 1 disturbs task 0 by 4 * 4 = 16 and 1 * 9 = 9, so it loses its first channel; task 0 disturbs task 1 by 1 and
    9 and loses its second. With a balance of 1 what they cost themselves is taken off: (4 - 1) * 4 = 12 and 0; and
    (1 - 4) * 1 = -3 and 0, which is no more than nothing.
    """
    moves = table((1, 3), (2, 3))
    inputs = [table((2, 1)), table((1, 0), (0, 1))]
    assert trim(moves, inputs, "norm.weight").tolist() == [[1, 0], [0, 3]]
    assert trim(moves, inputs, "norm.weight", balance=1.0).tolist() == [[1, 0], [0, 3]]
    assert trim(moves, inputs, "norm.weight", balance=1.0, positive_only=True).tolist() == [[1, 3], [0, 3]]
    back = trim(moves, inputs, "norm.weight", preserve_norm=True)
    assert torch.allclose(back, table((math.sqrt(10), 0), (0, math.sqrt(13))))


def test_means_and_sums_differ_with_counts() -> None:
    """One row of squares 4, 9 and four of sums 4, 12, hence means 1, 3; all movements are 1, the balance is 1.

    By sums task 1 disturbs task 0 by 4 - 4 = 0 and 9 - 12 = -3 and loses its first channel, task 0 loses its second,
    by 0 and 3. By means these are 3 and 6, and -3 and -6: the other way round.
    """
    moves, inputs = table((1, 1), (1, 1)), [table((2, 3)), table((1, 0), (1, 2), (1, 2), (1, 2))]
    assert trim(moves, inputs, "norm.weight", balance=1.0).tolist() == [[1, 0], [0, 1]]
    assert trim(moves, inputs, "norm.weight", balance=1.0, scores="mean").tolist() == [[0, 1], [1, 0]]


def test_shifts_by_hand() -> None:
    """The largest squares of others go: of task 0 the second, of task 1 the first; of equal ones the first."""
    assert trim(table((1, 3), (4, 2)), None, "norm.bias").tolist() == [[1, 0], [0, 2]]
    assert trim(table((2, -2), (0, 1)), None, "norm.bias").tolist() == [[0, -2], [0, 0]]


def test_transposed_maps() -> None:
    """GPT-2 keeps (d_in, d_out): its movements are trimmed as their transposes are."""
    generator = torch.Generator().manual_seed(5)
    moves = torch.randn(3, 4, 6, generator=generator)
    inputs = [torch.randn(9, 6, generator=generator) for _ in range(3)]
    got = trim(moves.mT.contiguous(), inputs, axis=0, balance=1.0)
    assert torch.allclose(got.mT, trim(moves, inputs, balance=1.0), atol=1e-6)


def test_kernels_are_maps_of_their_patches() -> None:
    """A convolution is trimmed as the matrix it unfolds to; one of several groups is left as it is."""
    generator = torch.Generator().manual_seed(6)
    moves = torch.randn(2, 5, 3, 2, 2, generator=generator)
    inputs = [torch.randn(30, 12, generator=generator) for _ in range(2)]
    flat = trim(moves.flatten(2), inputs, balance=1.0)
    assert torch.equal(trim(moves, inputs, balance=1.0), flat.reshape(moves.shape))
    grouped = [torch.randn(2, 30, 12, generator=generator) for _ in range(2)]
    assert torch.equal(trim(moves, grouped), moves)


@pytest.mark.parametrize("name", ["w", "attention.bias"])
@pytest.mark.parametrize("preserve_norm", [False, True])
def test_maps_in_one_tensor(name: str, preserve_norm: bool) -> None:
    """Three maps one behind the other, or what they add, are trimmed as three tensors would be."""
    generator = torch.Generator().manual_seed(9)
    shape = (2, 12, 5) if name == "w" else (2, 12)
    moves = torch.randn(shape, generator=generator)
    inputs = [torch.randn(20, 5, generator=generator) for _ in range(2)] if name == "w" else None
    results = {}
    if inputs is not None:
        results["gram"] = tuple(Measured.of(x.T @ x, len(x)) for x in inputs)
    site = Site(name, 2, Key(0, name), results, moves, torch.zeros(shape[1:]), are_deltas=True, stacked=3)
    got = CAT(site, **{**PLAIN, "preserve_norm": preserve_norm})
    apart = [trim(part, inputs, name, preserve_norm=preserve_norm) for part in moves.chunk(3, 1)]
    assert torch.allclose(got, torch.cat(apart, 1), atol=1e-6)
    assert not torch.allclose(got, trim(moves, inputs, name, preserve_norm=preserve_norm), atol=1e-3)


@pytest.mark.parametrize("rows", [10, 400])
def test_few_rows_and_large_maps(rows: int) -> None:
    """Of 500 outputs, whose directions are iterated for, and with Gram matrices of few rows: as if both were not so."""
    generator = torch.Generator().manual_seed(7)
    moves = torch.randn(2, 500, 80, generator=generator).double()
    inputs = [torch.randn(rows, 80, generator=generator).double() for _ in range(2)]
    grams = [x.T @ x for x in inputs]
    expected = []
    for k in (0, 1):
        i = 1 - k
        total = moves[i] @ (grams[k] - 0.5 * grams[i]) @ moves[i].T
        vectors = torch.linalg.eigh(total).eigenvectors[:, -2:]
        expected.append(moves[i] - vectors @ vectors.T @ moves[i])
    got = trim(moves, inputs, directions=2, balance=0.5)
    assert torch.allclose(got, torch.stack(expected[::-1]), atol=1e-6)


def test_what_is_not_finite_is_seen() -> None:
    """A NaN makes all of a tensor NaN, which a run refuses by the name of the model."""
    moves = torch.ones(2, 3, 4)
    moves[1, 0, 0] = float("nan")
    assert bool(trim(moves, [torch.ones(2, 4)] * 2).isnan().all())
    assert (
        trim(torch.zeros(2, 3, 4), [torch.ones(2, 4)] * 2, preserve_norm=True).tolist() == torch.zeros(2, 3, 4).tolist()
    )


def test_its_place_in_a_chain() -> None:
    """Before task arithmetic, and after TATR, whose mask it then sees: a merge is of the base and what is left."""
    generator = torch.Generator().manual_seed(8)
    base = torch.randn(6, 5, generator=generator)
    models = [base + torch.randn(6, 5, generator=generator) for _ in range(3)]
    plain = merge([("cat", {"balance": 0.5}), ("task_arithmetic", {"scale": 0.4})], models, base)
    masked = merge([("tatr", {"ratio": 0.2}), ("cat", {"balance": 0.5}), ("task_arithmetic", {})], models, base)
    assert not torch.allclose(plain, masked)
    sums = merge([("task_arithmetic", {"scale": 0.4})], models, base)
    assert float((plain - base).norm()) < float((sums - base).norm())


@pytest.mark.parametrize("role", [Role.EMBEDDING, Role.POSITION, Role.HEAD_TASK, Role.EMBEDDING_SPECIAL])
def test_what_is_no_part_of_a_layer_stays(role: Role) -> None:
    """Embeddings, positions and heads keep their movements; norms, biases and patches are trimmed."""
    steps = (resolve(("cat", {}), 2), resolve(("task_arithmetic", {}), 2))
    assert "cat is for layers and is left out" in apply_domains(steps, role, (8, 4), 2).why
    patch = (Role.EMBEDDING_PATCH, (4, 3, 2, 2))
    for inside, shape in ((Role.NORM, (4,)), (Role.QUERY, (4,)), (Role.QUERY, (4, 4)), patch):
        assert apply_domains(steps, inside, shape, 2).why == ""
    assert apply_domains(steps, Role.SCALE, (), 2).why.startswith("0-D")
    assert apply_domains(steps, Role.SSM_STATE, (4, 4), 2).why.startswith("ssm.state")
