import json
from pathlib import Path

import pytest

import eutectic
from eutectic.api.runs import Event, Finished, Progress, Started, check_output
from tests.docs.pages import llama
from tests.make.checkpoints import write_model


def recipe(**options: object) -> eutectic.Recipe:
    """TIES of two models."""
    return eutectic.merge(["code", "maths"], base="base", method="ties", **options)


def test_plan_and_run(here: Path) -> None:
    """The plan says what the run does; the receipt agrees with it and with what is on disk."""
    planned = eutectic.plan(recipe(), memory="1 GiB", threads=2)
    assert not (here / "out").exists()
    events: list[Event] = []
    receipt = eutectic.run(planned, out="out", watch=[events.append])
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    read = [event.read for event in events if isinstance(event, Progress)]
    assert read == sorted(read)
    assert len(receipt.fates) == 21
    assert (receipt.threads, receipt.resumed) == (2, False)
    assert receipt.nbytes == (here / "out" / "model.safetensors").stat().st_size
    assert json.loads((here / "out" / "eutectic_receipt.json").read_text())["job"] == receipt.job
    assert eutectic.read(here / "out" / "eutectic_recipe.yaml").digest() == recipe().digest()


def test_a_recipe_may_be_a_file_data_or_itself(here: Path) -> None:
    """Three ways to say one job."""
    (here / "recipe.yaml").write_text(recipe().to_yaml())
    jobs = {eutectic.plan(each).job for each in (recipe(), recipe().to_dict(), "recipe.yaml", here / "recipe.yaml")}
    assert len(jobs) == 1


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"memory": "1 KiB"}, eutectic.OverBudget),
        ({"memory": "much"}, eutectic.RecipeError),
        ({"memory": 0}, eutectic.RecipeError),
        ({"threads": 0}, eutectic.RecipeError),
        ({"device": "abacus"}, eutectic.RecipeError),
        ({"device": ""}, eutectic.RecipeError),
    ],
)
def test_settings_that_cannot_be(here: Path, settings: dict[str, object], error: type[Exception]) -> None:
    """Refused when planning, by an error that says which kind of thing to change."""
    with pytest.raises(error):
        eutectic.plan(recipe(), **settings)  # type: ignore[arg-type]


def test_the_least_budget_works(here: Path) -> None:
    """What a refusal names as the least is enough, and one byte less is not."""
    with pytest.raises(eutectic.OverBudget) as refused:
        eutectic.plan(recipe(), memory=1, threads=1)
    needed = refused.value.needed
    assert eutectic.plan(recipe(), memory=needed, threads=1).peak <= needed
    with pytest.raises(eutectic.OverBudget):
        eutectic.plan(recipe(), memory=needed - 1, threads=1)


def test_outputs_are_checked_before_work(here: Path) -> None:
    """A new or empty folder will do; one with other files, or a file, will not."""
    planned = eutectic.plan(recipe())
    (here / "empty").mkdir()
    check_output(planned, "empty")
    check_output(planned, "new")
    for taken in ("base", "base/config.json"):
        with pytest.raises(eutectic.OutputError, match="expected a new or empty folder"):
            check_output(planned, taken)


def test_verify_makes_it_again(here: Path) -> None:
    """All tensors of a sound output; a changed byte is counted, a lost tensor refused."""
    eutectic.run(eutectic.plan(recipe()), out="out")
    sound = eutectic.verify("out", sample=None)
    assert sound.ok
    assert len(sound.checked) == 21
    assert len(eutectic.verify("out", sample=4).checked) >= 4
    weights = here / "out" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0x80
    weights.write_bytes(data)
    spoiled = eutectic.verify("out", sample=None)
    assert not spoiled.ok
    assert list(spoiled.differing.values()) == [1]


def test_verify_needs_a_receipt(here: Path) -> None:
    """What has none, or one that is no JSON, was not written by us."""
    with pytest.raises(eutectic.CheckpointError, match="expected an output of eutectic"):
        eutectic.verify("base")
    eutectic.run(eutectic.plan(recipe()), out="out")
    for broken in ("{", "[]", "{}"):
        (here / "out" / "eutectic_receipt.json").write_text(broken)
        with pytest.raises(eutectic.CheckpointError, match="receipt"):
            eutectic.verify("out")


def test_diff_takes_names_and_open_checkpoints(here: Path) -> None:
    """Both give the same; an open one stays open."""
    base = eutectic.open("base")
    by_name, by_checkpoint = eutectic.diff("base", "code"), eutectic.diff(base, "code", threads=1)
    assert by_name == by_checkpoint
    assert eutectic.diff(base, base)[0].distance == 0.0


def test_the_card_names_parents_and_licences(here: Path) -> None:
    """README.md of the output: the parents with their licences, the method, the recipe."""
    (here / "code" / "README.md").write_text("---\nlicense: mit\n---\n")
    eutectic.run(eutectic.plan(recipe()), out="out")
    card = (here / "out" / "README.md").read_text()
    for part in ("base", "code", "maths", "mit", "ties"):
        assert part in card


def test_a_name_is_looked_up_once() -> None:
    """The package gives the verbs, not the parts of the same name; unknown names are unknown."""
    import eutectic.plan.build

    assert callable(eutectic.plan)
    assert set(eutectic.__all__) <= set(dir(eutectic))
    with pytest.raises(AttributeError, match="no attribute 'merg'"):
        eutectic.merg  # type: ignore[attr-defined]  # noqa: B018


def test_a_base_that_fills_gaps_has_no_part_in_norms(here: Path) -> None:
    """A model without a tensor counts as the base there; norms over the model are of the models alone."""
    config = json.loads((here / "base" / "config.json").read_text())
    tensors = llama(1)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    write_model(here / "lacking", tensors, config)
    tensors["model.layers.0.mlp.up_proj.weight"] = llama(0)["model.layers.0.mlp.up_proj.weight"]
    write_model(here / "filled", tensors, config)
    for name in ("lacking", "filled"):
        made = eutectic.merge(
            [name, "maths"],
            base="base",
            method={"linear": {"weight": "nan"}},
            missing="base",
            output={"dtype": "float32"},
        )
        eutectic.run(eutectic.plan(made), out=f"out-{name}")
    assert {each.distance for each in eutectic.diff("out-lacking", "out-filled")} == {0.0}


def test_options_that_need_a_base(here: Path) -> None:
    """Where only some options need a base, the plan says so."""
    of_deltas = eutectic.merge(["code", "maths"], method={"nuslerp": {"of": "deltas"}})
    with pytest.raises(eutectic.RecipeError, match="nuslerp needs a base with these options; add `base:`"):
        eutectic.plan(of_deltas)
    assert eutectic.plan(eutectic.merge(["code", "maths"], method="nuslerp")).merged


def test_an_average_along_a_run(here: Path) -> None:
    """A pattern and a source of weights, to the last byte what the models and numbers written out give."""
    run = {"models": "run/checkpoint-*", "method": {"linear": {"weight": {"ema": {"decay": 0.25}}}}}
    (here / "run").mkdir()
    for step, name in ((90, "code"), (1000, "maths")):
        (here / name).rename(here / "run" / f"checkpoint-{step}")
    models = ["run/checkpoint-90", "run/checkpoint-1000"]
    written = [{"model": model, "weight": weight} for model, weight in zip(models, (0.25, 0.75), strict=True)]
    eutectic.run(eutectic.plan(run), out="ema")
    eutectic.run(eutectic.plan({"models": written, "method": "linear"}), out="written")
    assert [entry.model for entry in eutectic.read(here / "ema" / "eutectic_recipe.yaml").models] == models
    assert all(each.relative == 0 for each in eutectic.diff("ema", "written"))
    (here / "run" / "checkpoint-2000").mkdir()
    assert eutectic.verify("ema", sample=None).ok  # a checkpoint that came later is none of its own
