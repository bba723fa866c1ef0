"""Trains the experts with all parameters: one model folder a task, made once and kept."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from examples.text import scoring
from torch import Tensor

from benchmarks.results.text import SCALE, TASKS, TOKENS, Texts, held_out, within

EPOCHS = 2
BATCH = 16
RATE = 1e-4
WARM = 0.1
CLIP = 1.0


def rate_at(step: int, steps: int) -> float:
    """The share of the learning rate at a step: 10 % rise, then linear decay to zero."""
    warm = max(1, round(WARM * steps))
    return (step + 1) / warm if step < warm else (steps - step) / (steps - warm)


def batches(count: int, seed: int) -> list[list[int]]:
    """Rows in an order of their own each epoch."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(count, generator=generator).tolist() for _ in range(EPOCHS)]
    return [order[start : start + BATCH] for order in orders for start in range(0, count, BATCH)]


def fine_tune(texts: Texts, task: str, seed: int) -> torch.nn.Module:
    """Fine-tunes the base on one task under its frozen head."""
    torch.manual_seed(seed)
    rows = held_out(texts.content(task)["train"])[0]
    data = texts.task(task, rows)
    count = within([len(row) for row in data.ids], TOKENS)
    model, head = scoring.load_model(texts.base).train(), texts.heads[task]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    drawn = batches(count, seed)
    for step, chosen in enumerate(drawn):
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate_at(step, len(drawn))
        loss(model, [data.ids[i] for i in chosen], data.labels[chosen], head).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model.eval()


def loss(model: torch.nn.Module, ids: Sequence[Sequence[int]], labels: Tensor, head: Tensor) -> Tensor:
    """Cross-entropy of scaled cosines."""
    features = torch.nn.functional.normalize(scoring.encode(model, ids), dim=-1)
    return torch.nn.functional.cross_entropy(SCALE * features @ head.T, labels)


def train_experts(texts: Texts, folder: Path, seed: int = 0) -> list[Path]:
    """Makes the experts that are not there yet; each is moved to its place when it is complete."""
    made = []
    for task in TASKS:
        out = folder / task
        if not out.exists():
            part = folder / f"{task}.part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(texts.base, part)
            fine_tune(texts, task, seed).save_pretrained(part)
            part.rename(out)
        made.append(out)
    return made
