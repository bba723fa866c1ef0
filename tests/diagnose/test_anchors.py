"""What anchors are like: spectra, subspaces, cones, by hand; and the picture."""

import xml.etree.ElementTree as ET

import pytest
import torch

from eutectic.diagnose.anchors import draw_lines, nonnegative, projection_energy, spectrum, subspace_similarity
from eutectic.errors import CalibrationError


def test_spectrum_by_hand() -> None:
    """Rows (3, 0) and (0, 1.5), as one anchor of two tokens: 3 and 1.5, so 1 and 0.5; of zeros, zeros."""
    assert spectrum(torch.tensor([[[3.0, 0.0], [0.0, 1.5]]])).tolist() == [1.0, 0.5]
    assert spectrum(torch.zeros(2, 2)).tolist() == [0.0, 0.0]


def test_subspace_similarity_by_hand() -> None:
    """Half of width 4 is 2 directions: e1, e2 against e2, e3 share one, 1 / 2; against themselves all of it."""
    eye = torch.eye(4)
    one = torch.stack([4 * eye[0], 3 * eye[1], eye[2], eye[3]])
    other = torch.stack([4 * eye[1], 3 * eye[2], eye[0], eye[3]])
    assert subspace_similarity(one, other, 0.5) == pytest.approx(0.5)
    assert subspace_similarity(one, one, 0.5) == pytest.approx(1.0)
    with pytest.raises(CalibrationError, match="one width"):
        subspace_similarity(one, torch.zeros(4, 3))
    with pytest.raises(CalibrationError, match="at least 2 rows"):
        subspace_similarity(one, other[:1], 0.5)


def test_projection_on_a_cone_by_hand() -> None:
    """Of (3, -4) only e1 is reached from the cone of e1 and e2: coefficients (3, 0), energy 3 / 5."""
    target = torch.tensor([3.0, -4.0])
    assert nonnegative(torch.eye(2), target).tolist() == [3.0, 0.0]
    assert projection_energy(torch.eye(2), target) == pytest.approx(0.6)
    with pytest.raises(CalibrationError, match="zeros"):
        projection_energy(torch.eye(2), torch.zeros(2))


@pytest.mark.parametrize("seed", range(5))
def test_coefficients_meet_the_conditions_of_the_minimum(seed: int) -> None:
    """At the minimum no coefficient is negative, the gradient is zero where one is positive and no less elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    updates = torch.randn(20, 12, generator=generator).double()
    target = torch.randn(20, generator=generator).double()
    found = nonnegative(updates, target)
    gradient = updates.T @ (updates @ found - target)
    assert bool((found >= 0).all())
    assert 0 < int((found > 0).sum()) < 12
    assert float(gradient[found > 0].abs().max()) < 1e-9
    assert float(gradient[found == 0].min()) > -1e-9


def test_the_picture_is_well_formed_and_holds_every_line() -> None:
    """Two lines with names that need escaping, zeros included; none are refused."""
    drawn = draw_lines({"a<b": [1.0, 0.1, 0.0], "c": [1.0, 0.5]}, "title & more", "direction")
    tree = ET.fromstring(drawn)
    lines = [each for each in tree.iter() if each.tag.endswith("polyline")]
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 2]
    assert "a<b" in [each.text for each in tree.iter()]
    assert ET.fromstring(draw_lines({"flat": [2.0, 2.0]}, "t", "x", log=False)) is not None
    with pytest.raises(CalibrationError, match="lines to draw"):
        draw_lines({}, "t", "x")
