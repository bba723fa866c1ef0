import pytest
import torch

from eutectic.errors import CalibrationError
from eutectic.stats.fold import Of, Sees
from eutectic.stats.gradients import NO_LABEL, FisherDiagonal, GradientMagnitude, OfGradients


def taken(statistic: OfGradients, w: torch.Tensor, x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """The statistic at a linear classifier's weights."""
    weight = w.clone().requires_grad_()
    state = statistic.init(tuple(w.shape))
    generator = torch.Generator().manual_seed(0)
    pieces = [(x, labels)] if statistic.batched else [
        (x[at : at + 1], None if labels is None else labels[at : at + 1]) for at in range(len(x))
    ]  # fmt: skip
    for rows, own in pieces:
        for scalar in statistic.scalars(rows @ weight.T, own, generator):
            (gradient,) = torch.autograd.grad(scalar, weight, retain_graph=True)
            statistic.update(state, gradient)
    return statistic.finish(state, len(x))


W = torch.tensor([[0.5, -1.0], [0.0, 2.0], [1.0, 0.0]])
X = torch.tensor([[1.0, 0.5], [-0.25, 1.0], [2.0, 1.0]])


def test_exact_is_the_expectation_over_classes() -> None:
    """As d log p_y / d w_c = (1[y = c] - p_c) x, so the diagonal is E_x p_c (1 - p_c) x^2."""
    chances = (X @ W.T).softmax(-1)
    expected = torch.einsum("nc,nd->cd", chances * (1 - chances), X.square()) / len(X)
    assert torch.allclose(taken(FisherDiagonal("exact"), W, X, None), expected, rtol=1e-5)


def test_empirical_takes_the_given_label() -> None:
    """E_x (1[y = c] - p_c)^2 x^2."""
    labels = torch.tensor([0, 2, 1])
    chances = (X @ W.T).softmax(-1)
    miss = torch.nn.functional.one_hot(labels, 3) - chances
    expected = torch.einsum("nc,nd->cd", miss.square(), X.square()) / len(X)
    assert torch.allclose(taken(FisherDiagonal("empirical"), W, X, labels), expected, rtol=1e-5)


def test_sampled_agrees_with_exact_on_average() -> None:
    """Over many copies of one sample, drawn labels come to the expectation within 3 %."""
    many = X[:1].expand(4000, -1)
    exact = taken(FisherDiagonal("exact"), W, X[:1], None)
    sampled = taken(FisherDiagonal("sampled"), W, many, None)
    assert torch.allclose(sampled, exact, rtol=0.1)


def test_batch_squares_the_sum() -> None:
    """The square of the sum over samples and classes of sqrt(p_y) (1[y = c] - p_c) x, by the number of samples."""
    chances = (X @ W.T).softmax(-1)
    root = chances.sqrt()
    pulled = root - root.sum(1, keepdim=True) * chances
    expected = torch.einsum("nc,nd->cd", pulled, X).square() / len(X)
    assert torch.allclose(taken(FisherDiagonal("batch"), W, X, None), expected, rtol=1e-5)


def test_magnitudes_are_of_each_sample() -> None:
    """E_x |1[y = c] - p_c| |x|: no cancelling between samples."""
    labels = torch.tensor([0, 2, 1])
    chances = (X @ W.T).softmax(-1)
    miss = (torch.nn.functional.one_hot(labels, 3) - chances).abs()
    expected = torch.einsum("nc,nd->cd", miss, X.abs()) / len(X)
    assert torch.allclose(taken(GradientMagnitude(), W, X, labels), expected, rtol=1e-5)


def test_of_a_language_model_the_next_token_is_the_label() -> None:
    """The last token predicts nothing, padding is no label, and tokens are averaged."""
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 3, 2, NO_LABEL]])
    (scalar,) = GradientMagnitude().scalars(logits, labels, torch.Generator())
    logs = logits.log_softmax(-1)
    assert torch.allclose(-scalar, (logs[0, 0, 3] + logs[0, 1, 2]) / 2)


@pytest.mark.parametrize("kind", ["exact", "batch"])
def test_words_are_too_many_for_an_expectation(kind: str) -> None:
    """A prediction for every token is refused, with the kinds that serve."""
    with pytest.raises(CalibrationError, match="set kind: empirical, or sampled"):
        list(FisherDiagonal(kind).scalars(torch.zeros(1, 4, 5), None, torch.Generator()))  # type: ignore[arg-type]


def test_labels_are_asked_for() -> None:
    """Missing labels are an error that says where to name them."""
    with pytest.raises(CalibrationError, match=r"calibration\.label"):
        list(FisherDiagonal("empirical").scalars(torch.zeros(1, 5), None, torch.Generator()))


def test_what_they_are() -> None:
    """In the shape of the weights, of gradients; whose weights is part of the value."""
    for each in (FisherDiagonal(), GradientMagnitude()):
        assert each.aligned
        assert each.takes(Sees.GRADIENTS)
        assert not each.takes(Sees.INPUTS)
    assert GradientMagnitude("base").of is Of.BASE
    assert FisherDiagonal().of is Of.EACH
