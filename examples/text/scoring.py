"""How the demo scores a model: frozen heads made of the base's embeddings of class descriptions."""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModel, BertModel

DATA = Path(__file__).parent / "data"
TASKS = ("supersense", "glosspos", "debsection", "debrole", "langid", "spam")
UNSEEN = "fortunes"
TOKENS = 32

#: What becomes of features, (texts, width), before they are normalised.
Adapter = Callable[[Tensor], Tensor]


def keep(features: Tensor) -> Tensor:
    """Leaves features as they are."""
    return features


@dataclass(frozen=True)
class Task:
    """One task's test rows: token ids (padded with zeros), label indices, and the descriptions of its classes."""

    name: str
    ids: Sequence[Sequence[int]]
    labels: Tensor
    prompts: Sequence[Sequence[int]]

    def first(self, rows: int) -> "Task":
        """The task with its first so many test rows."""
        return replace(self, ids=self.ids[:rows], labels=self.labels[:rows])


def load_tokenizer(model: Path) -> Tokenizer:
    """Reads a model folder's tokenizer, cutting texts at 32 tokens."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)
    return tokenizer


def load_tasks(names: Iterable[str], tokenizer: Tokenizer, rows: int | None = None) -> list[Task]:
    """Reads tasks, tokenised once for all models; `rows` keeps the first so many rows of each."""
    tasks = []
    for name in names:
        with gzip.open(DATA / f"{name}.json.gz") as file:
            content = json.load(file)
        texts, labels = zip(*content["test"][:rows], strict=True)
        encode = tokenizer.encode_batch
        ids = [row.ids for row in encode(list(texts))]
        tasks.append(Task(name, ids, torch.tensor(labels), [row.ids for row in encode(content["prompts"])]))
    return tasks


def load_model(folder: Path) -> BertModel:
    """Loads a model folder as its users would."""
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def encode(model: BertModel, texts: Sequence[Sequence[int]]) -> Tensor:
    """Mean of the last hidden states over a text's tokens: (texts, width), all passed at once."""
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state  # (texts, width, hidden)
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def embed(model: BertModel, texts: Sequence[Sequence[int]], adapt: Adapter = keep, batch: int = 50) -> Tensor:
    """Features of any number of texts, adapted and L2-normalised, in the given order, without gradients."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of like length together: little padding
    rows = torch.empty(len(texts), model.config.hidden_size)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            rows[chosen] = encode(model, [texts[i] for i in chosen])
        return torch.nn.functional.normalize(adapt(rows), dim=-1)


def make_heads(base: BertModel, tasks: Iterable[Task]) -> dict[str, Tensor]:
    """The frozen heads: the base's embeddings of each task's class descriptions, (classes, width)."""
    return {task.name: embed(base, task.prompts) for task in tasks}


def hits(model: BertModel, task: Task, head: Tensor, adapt: Adapter = keep) -> Tensor:
    """Which of a task's rows a model gets right: (rows,), true or false."""
    return (embed(model, task.ids, adapt) @ head.T).argmax(-1) == task.labels


def score(model: BertModel, tasks: Iterable[Task], heads: Mapping[str, Tensor]) -> dict[str, float]:
    """Accuracy of a model on each task, as a share in [0, 1]."""
    return {task.name: float(hits(model, task, heads[task.name]).float().mean()) for task in tasks}
