"""What learning holds and keeps, by hand."""

from pathlib import Path

import eutectic
from eutectic.search.coefficients import coefficients_of
from eutectic.search.learning import deltas_bytes, kept_within
from tests.make.transformer import config, family, texts


def test_deltas_are_kept_as_far_as_there_is_room(tmp_path: Path) -> None:
    """A tensor of 16 x 16 and two models takes 4 * 256 * 3 bytes; without room nothing, with all of it everything."""
    family(tmp_path, "BertModel", config("bert"))
    texts(tmp_path / "data.jsonl", 4)
    recipe = eutectic.merge(
        [str(tmp_path / "expert0"), str(tmp_path / "expert1")],
        base=str(tmp_path / "base"),
        method="task_arithmetic",
        calibration={"data": str(tmp_path / "data.jsonl")},
    )
    plan = eutectic.plan(recipe)
    found = coefficients_of(plan, recipe, "tensor", None)
    sizes = {site.spec.name: deltas_bytes(site) for site in plan.merged}
    square = "encoder.layer.0.attention.self.query.weight"
    assert sizes[square] == 4 * 256 * 3
    assert kept_within(plan, found, 0) == frozenset()
    assert kept_within(plan, found, sum(sizes.values())) == frozenset(found.groups)
    some = kept_within(plan, found, sum(sizes.values()) // 2)
    assert 0 < sum(sizes[name] for name in some) <= sum(sizes.values()) // 2
