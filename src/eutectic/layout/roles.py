"""What a tensor is for: one closed list of roles, dotted so that a rule can name a whole branch."""

import enum
from fnmatch import fnmatchcase


class Role(enum.StrEnum):
    """The role of a tensor. A bias has the role of the weight it belongs to."""

    EMBEDDING = "embedding.word"
    POSITION = "embedding.position"
    EMBEDDING_TYPE = "embedding.type"
    EMBEDDING_PATCH = "embedding.patch"
    EMBEDDING_SPECIAL = "embedding.special"

    QUERY = "attention.query"
    KEY = "attention.key"
    VALUE = "attention.value"
    QKV = "attention.qkv"
    KV = "attention.kv"
    ATTENTION_OUTPUT = "attention.output"
    ATTENTION_NORM = "attention.norm"
    ATTENTION_POSITION = "attention.position"
    ATTENTION_SINK = "attention.sink"
    ATTENTION_GATE = "attention.gate"

    UP = "mlp.up"
    GATE = "mlp.gate"
    DOWN = "mlp.down"
    GATE_UP = "mlp.gate_up"

    EXPERT_UP = "expert.up"
    EXPERT_GATE = "expert.gate"
    EXPERT_DOWN = "expert.down"
    EXPERT_GATE_UP = "expert.gate_up"
    SHARED_UP = "shared_expert.up"
    SHARED_GATE = "shared_expert.gate"
    SHARED_DOWN = "shared_expert.down"
    SHARED_GATE_UP = "shared_expert.gate_up"
    ROUTER = "router"

    SSM_INPUT = "ssm.input"
    SSM_OUTPUT = "ssm.output"
    SSM_CONV = "ssm.conv"
    SSM_STATE = "ssm.state"

    NORM = "norm"
    SCALE = "scale"
    CONV = "conv"
    PROJECTION = "projection"
    POOLER = "pooler"

    HEAD = "head.word"
    HEAD_TRANSFORM = "head.transform"
    HEAD_TASK = "head.task"

    QUANTIZATION = "quantization"
    BUFFER = "buffer"
    OTHER = "other"

    def matches(self, pattern: str) -> bool:
        """Whether a rule's pattern names this role: a glob, or a branch (`attention` is every `attention.*`)."""
        return fnmatchcase(self.value, pattern) or fnmatchcase(self.value, f"{pattern}.*")
