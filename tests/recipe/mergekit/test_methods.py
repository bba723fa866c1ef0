import pytest

from eutectic.methods import METHODS as OURS
from eutectic.recipe.mergekit.methods import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_entries_name_what_exists(name: str) -> None:
    """Every step and parameter of an entry is one of ours, with a value that it takes; all required ones are given."""
    method = METHODS[name]
    given: set[str] = set()
    for step in method.chain:
        for values in (step.exact, step.mended, step.based):
            for key, value in values.items():
                own = OURS[step.method].parameter(key)
                assert own is not None
                own.check(value, name)
        given |= {f"{step.method}.{key}" for key in step.mended}
    for parameter in method.parameters:
        for target in (parameter.to, *parameter.too):
            if target is None:
                continue
            step, _, bare = target.partition(".")
            own = OURS[step].parameter(bare)
            assert own is not None, target
            assert own.bounds.per_model == (parameter.per != "all" and name != "passthrough"), target
            words = [*(parameter.words or ()), *(parameter.mended or ()), *([parameter.off] if parameter.off else [])]
            assert set(words) <= set(own.choices)
            given.add(target)
    required = {f"{s.method}.{own.name}" for s in method.chain for own in OURS[s.method].parameters if own.required}
    assert required <= given


def test_all_of_mergekits_methods() -> None:
    """The twenty of version 0.1.5."""
    assert len(METHODS) == 20
    for trap in (trap for method in METHODS.values() for trap in method.traps):
        assert trap.said
