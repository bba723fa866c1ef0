"""The receipt of a run: what went in, what came out, how, and what it took. Enough to do it again and to check it."""

import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from eutectic.plan.steps import Plan


@dataclass(frozen=True)
class Receipt:
    """What a run leaves in its output, as `eutectic_receipt.json`.

    Attributes:
        job: digest of everything that decides a byte of the output.
        recipe: as plain data; `seed` among it.
        inputs: reference, role, revision and fingerprint of each.
        versions: of eutectic, Python and the libraries that compute.
        fates: by tensor: merged (with its methods), copied or dropped, and why.
        non_finite: how many values of a tensor are NaN or infinite, where any is.
        memory: bytes: budget, planned peak, real peak.
        seconds: from the first byte read to the rename.
        threads: workers.
        resumed: whether it finished an earlier run's work.
        nbytes: of the weight files.
        truncation: of an adapter: the relative error of cutting its updates to their rank, in all and by tensor.
        notes: what there was to say of the recipe and of how the models fit together, as in the plan.
    """

    job: str
    recipe: dict[str, Any]
    inputs: list[dict[str, Any]]
    versions: dict[str, str]
    fates: dict[str, str]
    non_finite: dict[str, int]
    memory: dict[str, int]
    seconds: float
    threads: int
    resumed: bool
    nbytes: int
    truncation: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Returns the receipt as a JSON document."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def summary(self) -> dict[str, Any]:
        """Returns what a script wants to know at once: all but inputs, recipe and fates."""
        long = {"recipe", "fates", "inputs", "versions"}
        found = {key: value for key, value in asdict(self).items() if key not in long}
        return found | {"truncation": {key: value for key, value in self.truncation.items() if key != "tensors"}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Receipt":
        """Reads a receipt back; keys it does not know are left out."""
        return cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})


def describe_inputs(plan: Plan) -> list[dict[str, Any]]:
    """Returns what the receipt says of each input."""
    roles = ["base"] * plan.has_base + ["model"] * (len(plan.read) - plan.has_base)
    return [
        {
            "reference": checkpoint.reference,
            "role": role,
            "deltas": checkpoint.deltas,
            "revision": checkpoint.revision,
            "fingerprint": plan.fingerprints[str(number)],
        }
        for number, (checkpoint, role) in enumerate(zip(plan.read, roles, strict=True))
    ]


def describe_fates(plan: Plan) -> dict[str, str]:
    """Returns every tensor's fate in words."""
    fates = {
        site.spec.name: "merged by "
        + ", ".join(step.method.name for step in site.steps)
        + (f", with {', '.join(extra.name for extra in site.extras)} for each task" if site.extras else "")
        + (f" ({site.why})" if site.why else "")
        for site in plan.merged
    }
    made = plan.losses is not None
    fates |= {each.spec.name: f"{'made' if made else 'copied:'} {each.why}" for each in plan.copied}
    return fates | {each.name: f"dropped: {each.why}" for each in plan.dropped}


def versions(own: str) -> dict[str, str]:
    """Returns the versions that may matter to a bit of the result."""
    found = {"eutectic": own, "python": platform.python_version()}
    for name in ("torch", "numpy", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
