"""The section of anchors: what it says by default, what anchors depend on, and what is written."""

import eutectic
from eutectic.recipe.anchors import Anchors


def test_defaults_and_what_is_written() -> None:
    """Only what differs is written, and reading it gives an equal recipe."""
    made = eutectic.merge(["a", "b"], base="c", method="tsv_m", anchors={"steps": 40, "sigma": 1})
    assert made.to_dict()["anchors"] == {"steps": 40, "sigma": 1}
    assert eutectic.read(made.to_dict()) == made
    assert "anchors" not in eutectic.merge(["a"], method="linear").to_dict()


def test_rates_follow_the_start() -> None:
    """1e-5 of weights from the base, 1e-2 of coefficients, unless one is said."""
    assert Anchors(start="base").pace == 1e-5
    assert Anchors().pace == Anchors(start="models").pace == 1e-2
    assert Anchors(start="base", rate=1e-3).pace == 1e-3


def test_anchors_depend_on_their_making_alone() -> None:
    """Another adaptation shares them; sigma counts with noise only, tokens with whole blocks only."""
    plain = Anchors().making()
    assert Anchors(start="base", epochs=3, rate=1, batch=2, distance="l1", sigma=3).making() == plain
    assert Anchors(unit="mlp", tokens=9).making() == Anchors(unit="mlp").making()
    changes = ({"count": 3}, {"tokens": 3}, {"init": "gaussian"}, {"align": "l2"}, {"steps": 3}, {"step_size": 1})
    assert all(Anchors(**change).making() != plain for change in changes)
    assert Anchors(init="gaussian", sigma=1).making() != Anchors(init="gaussian").making()
