"""Plans of recipes with anchors: what the receipt says, and adapters as experts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import eutectic
from eutectic.cli.main import main
from tests.make.transformer import config, family


def adapter(folder: Path, seed: int) -> str:
    """Writes a LoRA adapter of rank 2 on the queries of both blocks of a small BERT."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for block in range(2):
        path = f"base_model.model.encoder.layer.{block}.attention.self.query"
        tensors[f"{path}.lora_A.weight"] = torch.randn(2, 16, generator=generator)
        tensors[f"{path}.lora_B.weight"] = 0.1 * torch.randn(16, 2, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["query"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return str(folder)


def test_adapters_as_experts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only queries have task vectors, so only they change; the receipt's recipe has the section; `stats` lists all."""
    base, _ = family(tmp_path, "BertModel", config("bert"), n=0, words=False)
    experts = [adapter(tmp_path / f"adapter{k}", k) for k in range(2)]
    said = {"count": 4, "tokens": 3, "steps": 3, "epochs": 2, "rate": 0.1}
    made = eutectic.merge(experts, base=str(base), method={"task_arithmetic": {"weight": 0.4}}, anchors=said)
    planned = eutectic.plan(made, store=tmp_path / "store")
    eutectic.run(planned, out=tmp_path / "out")
    got, was = load_file(tmp_path / "out" / "model.safetensors"), load_file(base / "model.safetensors")
    moved = {name for name in got if not torch.equal(got[name], was[name])}
    assert moved == {f"encoder.layer.{k}.attention.self.query.weight" for k in range(2)}
    again = eutectic.read(tmp_path / "out" / "eutectic_recipe.yaml")
    assert again == made or again.to_dict() == made.to_dict()
    main_exits(["stats", "--store", str(tmp_path / "store")])
    listed = capsys.readouterr().out
    assert listed.count("anchors of") == 2
    assert "blocks refined of" in listed
    digest = next(line.split()[0] for line in listed.splitlines() if "anchors of" in line)
    main_exits(["stats", "--store", str(tmp_path / "store"), "--spectra", digest, "-o", str(tmp_path / "s.svg")])
    assert "4 spectra" in capsys.readouterr().out
    assert (tmp_path / "s.svg").exists()
    main_exits(["stats", "--store", str(tmp_path / "store"), "--delete-all"])
    assert "deleted 3 results" in capsys.readouterr().out


def main_exits(arguments: list[str]) -> None:
    """Runs the command line and holds that it went well."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code in (0, None)
