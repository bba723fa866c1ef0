"""Cases of models that weigh experts as they run: the authors' layer on given inputs."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import eutectic
from eutectic.routed.smile import Smile

from .cases import Case, check_equal


def knows(case: Case) -> bool:
    """Tells whether this is a layer with experts."""
    return case.folder.name.startswith("smile_")


def check(case: Case, tmp_path: Path) -> None:
    """Fine-tunes become adapters of full rank, and adapters experts beside the base's map; every setting is run."""
    facts = json.loads((case.folder / "params.json").read_text())
    given, want = (load_file(case.folder / f"{kind}.safetensors") for kind in ("inputs", "expected"))
    models = []
    for name in ("base", *(f"task{k}" for k in range(facts["K"]))):
        (tmp_path / name).mkdir()
        own = {f"layer.{leaf}": given[f"{name}.{leaf}"] for leaf in ("weight", "bias")}
        save_file(own, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")
        models.append(str(tmp_path / name))
    adapters = []
    for model in models[1:]:
        recipe = eutectic.extract_adapter(model, base=models[0], rank=min(facts["din"], facts["dout"]))
        eutectic.run(eutectic.plan(recipe, memory="1 GiB"), out=f"{model}-lora")
        adapters.append(f"{model}-lora")
    got = {}
    for setting in sorted({name.rpartition(".")[0] for name in want}):
        gate, rank, top = map(int, re.fullmatch(r"gk(\d+)\.k(-?\d+)\.top(\d+)", setting).groups())  # type: ignore[union-attr]
        net = nn.Module()
        net.layer = nn.Linear(facts["din"], facts["dout"])
        net.layer.load_state_dict({leaf: given[f"base.{leaf}"] for leaf in ("weight", "bias")})
        found = eutectic.smile(net, adapters, gate=gate, rank=rank if rank > 0 else None, top=top)
        assert (found.maps, found.left) == (("layer",), ())
        assert isinstance(net.layer, Smile)
        with torch.no_grad():
            got[f"{setting}.router_logits"], got[f"{setting}.y"] = (
                net.layer.strengths(given["x"]),
                net.layer(given["x"]),
            )
    check_equal(got, want, {"atol": facts["tolerance"], "rtol": 0.0})
