from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import eutectic
from eutectic.api.statistics import default_store, delete, stored
from eutectic.errors import CalibrationError, RecipeError


def models(folder: Path) -> tuple[list[str], list[nn.Module], list[torch.Tensor]]:
    """Two networks as files and as modules, and inputs of each."""
    paths, modules = [], []
    for k in range(2):
        torch.manual_seed(k)
        module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
        save_file(module.state_dict(), folder / f"{k}.safetensors")
        paths.append(str(folder / f"{k}.safetensors"))
        modules.append(module)
    return paths, modules, [torch.randn(20, 4, generator=torch.Generator().manual_seed(9 + k)) for k in range(2)]


def test_own_modules_merge(tmp_path: Path) -> None:
    """The merge's first map is the least squares of both modules' own inputs."""
    paths, modules, inputs = models(tmp_path)
    method = {"regmean": {"alpha": 1.0}}
    found = [
        eutectic.statistics(m, [x], method, store=tmp_path / "store") for m, x in zip(modules, inputs, strict=True)
    ]
    plan = eutectic.plan(eutectic.merge(paths, method=method), statistics=found)
    eutectic.run(plan, out=tmp_path / "out")
    got = load_file(tmp_path / "out" / "model.safetensors")
    left = torch.cat(inputs)
    right = torch.cat([x @ m[0].weight.T for x, m in zip(inputs, modules, strict=True)]).detach()  # type: ignore[index]
    assert torch.allclose(got["0.weight"], torch.linalg.lstsq(left, right).solution.T, atol=1e-4)


def test_statistics_must_be_the_methods(tmp_path: Path) -> None:
    """One for every model, of what its method asks for; methods without data ask for none."""
    paths, modules, inputs = models(tmp_path)
    one = eutectic.statistics(modules[0], [inputs[0]], "regmean", store=tmp_path / "store")
    recipe = eutectic.merge(paths, method="regmean")
    with pytest.raises(CalibrationError, match="expected statistics of 2 models"):
        eutectic.plan(recipe, statistics=[one])
    with pytest.raises(CalibrationError, match="expected FisherDiagonal"):
        eutectic.plan(eutectic.merge(paths, method="fisher"), statistics=[one, one])
    with pytest.raises(CalibrationError, match="a method that looks at data, found linear"):
        eutectic.statistics(modules[0], [inputs[0]], "linear")
    with pytest.raises(RecipeError, match="did you mean 'alpha'"):
        eutectic.statistics(modules[0], [inputs[0]], {"regmean": {"alpa": 1.0}})
    with pytest.raises(RecipeError, match="needs data; add calibration"):
        eutectic.plan(recipe)


def test_listed_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder that is named, or the user's cache."""
    _, modules, inputs = models(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    eutectic.statistics(modules[0], [inputs[0]], "regmean")
    assert default_store() == tmp_path / "cache" / "eutectic" / "statistics"
    (entry,) = stored()
    assert delete(entry.digest) == entry.nbytes > 0
    assert stored() == []
