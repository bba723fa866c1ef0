"""Reads a role from the parts of a tensor's name, by the words that model authors share.

A name is `module.module. ... .leaf.weight`. The leaf decides, within its context (inside attention, inside experts,
inside a projector); what no word tells is `Role.OTHER`. Families say the few things words get wrong.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from eutectic.checkpoint.spec import TensorSpec
from eutectic.layout.roles import Role


def _table(**words: str) -> dict[str, str]:
    """Turns `role="word word"` into `{word: role}`."""
    return {word: role for role, listed in words.items() for word in listed.split()}


#: Leaves that mean attention wherever they stand.
_ATTENTION = _table(
    QUERY="q_proj query_proj q_lin wq to_q q_a_proj q_b_proj linear_q add_q_proj",
    KEY="k_proj key_proj k_lin wk to_k linear_k add_k_proj",
    VALUE="v_proj value_proj v_lin wv to_v linear_v add_v_proj",
    QKV="qkv qkv_proj query_key_value wqkv c_attn w_pack att_proj to_qkv qkvz_proj",
    KV="kv_proj kv_a_proj_with_mqa kv_a_proj kv_b_proj to_kv key_value key_value_proj",
    ATTENTION_OUTPUT="o_proj out_lin attn_out to_out to_add_out",
    ATTENTION_POSITION="relative_attention_bias relative_position_bias_table rel_pos_h rel_pos_w pos_proj linear_pos "
    "pos_key_proj pos_query_proj pos_q_proj slopes",
    ATTENTION_SINK="sinks",
)
#: Leaves that mean attention only inside it.
_INSIDE_ATTENTION = _table(
    QUERY="q query bias_q",
    KEY="k key bias_k",
    VALUE="v value bias_v",
    QKV="in_proj qkvz",
    KV="kv",
    ATTENTION_OUTPUT="o wo out out_proj dense proj c_proj projection projection_layer linear_out output_proj",
    ATTENTION_POSITION="pos_bias_u pos_bias_v",
    ATTENTION_GATE="g_proj gate_proj gate",
)
_MLP = _table(
    UP="up_proj fc1 fc_1 fc_in lin1 linear1 linear_fc1 wi wi_1 w3 v1 c_fc dense_h_to_4h intermediate_dense ffn up "
    "dense_1 intermediate_query intermediate",
    GATE="gate_proj wi_0 gate",
    DOWN="down_proj fc2 fc_2 fc_out lin2 linear2 linear_fc2 wo w2 c_proj dense_4h_to_h output_dense ffn_output down "
    "dense_2 output_linear",
    GATE_UP="gate_up_proj gate_and_up_proj gate_up fc1_glu input_linear",
)
_EMBEDDING = _table(
    EMBEDDING="embed_tokens word_embeddings word_embedding wte tok_embeddings token_embedding token_embeddings "
    "embed_in shared embeddings embedding embed_tokens_per_layer",
    POSITION="embed_positions position_embeddings position_embedding wpe pos_embed pos_embedding "
    "positional_embedding positional_embedding_vlm rel_embeddings position_embedding_table tile_embedding",
    EMBEDDING_TYPE="token_type_embeddings token_type_embedding segment_embeddings",
    EMBEDDING_SPECIAL="cls_token class_embedding mask_token query_tokens probe register_tokens distillation_token "
    "masked_spec_embed image_newline cls_embedding",
)
_HEAD = _table(
    HEAD="lm_head embed_out output_layer vocab_projector generator_lm_head final_logits_bias",
    HEAD_TASK="classifier pre_classifier score qa_outputs head classification_head seq_relationship logits_proj",
    HEAD_TRANSFORM="vocab_transform",
    SCALE="logit_scale logit_bias logit lambda lambda1 layer_scale layer_scalar gamma gamma_1 gamma_2 ls1 ls2 "
    "gate_attn gate_ffn cross_attn_attn_gate cross_attn_mlp_gate",
    PROJECTION="project_in project_out embeddings_project embedding_hidden_mapping_in visual_projection "
    "text_projection language_projection eh_proj reduction",
)
_SSM = _table(
    SSM_STATE="a_log d dt_bias dt_proj x_proj in_proj_ba in_proj_b in_proj_a b_proj a_proj f_a_proj f_b_proj",
    SSM_INPUT="in_proj_qkvz in_proj_qkv in_proj_z in_proj",
    SSM_OUTPUT="out_proj",
    SSM_CONV="conv1d q_conv1d k_conv1d v_conv1d",
)
#: Modules whose every tensor (but norms) has one role.
_CONTEXTS: tuple[tuple[str, Role], ...] = (
    (r"patch_embed\w*|patchifier|patch_conv", Role.EMBEDDING_PATCH),
    (r"act_fn", Role.SCALE),
    (r"\w*positional_embedding", Role.POSITION),
    (r"pos_conv_embed", Role.POSITION),
    (r"multi_modal_projector|mm_projector|merger\w*|deepstack_merger_list|connector", Role.PROJECTION),
    (r"aligner|feature_projection|modality_projection|embed_vision|embed_audio", Role.PROJECTION),
    (r"pooler", Role.POOLER),
    (r"classifier|classification_head|score", Role.HEAD_TASK),
)

_BUFFERS = frozenset(
    ["inv_freq", "position_ids", "masked_bias", "running_mean", "running_var", "num_batches_tracked", "token_type_ids"]
)
_NORM = re.compile(r"norm|layrnorm|^ln$|^ln_|_ln$|^ln\d|^bn\d*$|^batchnorm")
_ATTENTION_NORM = re.compile(r"^(q|k|v|kv|qk|query|key|value)_(\w+_)?(norm|ln|layer_?norm)$|^norm_(added_)?(q|k)$")
_WITHIN_ATTENTION = re.compile(r"attn|attention(?!s)")  # diffusers keeps whole blocks in `attentions`
_STATE_SPACE = re.compile(r"^(mamba\w*|mixer|ssm|linear_attn)$")
_ROUTERS = frozenset(
    ["router", "e_score_correction", "expert_bias", "shared_expert_gate", "block_sparse_moe_gate", "wg", "tid2eid"]
)
_SHARED = frozenset(("shared_expert", "shared_experts", "shared_mlp"))


@dataclass(frozen=True)
class Parts:
    """A tensor's name, taken apart. `has` says whether the header holds a module of that name."""

    spec: TensorSpec
    has: Callable[[str], bool]

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """The name in lower case without `.weight` or `.bias`, `attn.in_proj_weight` counting as `in_proj`."""
        parts = self.spec.name.lower().split(".")
        if len(parts) > 1 and parts[-1] in ("weight", "bias"):
            parts = parts[:-1]
        else:
            known = any(parts[-1] in words for words in (_HEAD, _SSM, _ATTENTION, _ROUTERS))
            parts[-1] = parts[-1] if known else re.sub(r"_(weight|bias)$", "", parts[-1])
        return tuple(parts)

    @cached_property
    def leaf(self) -> str:
        """The last part that is no number."""
        return next((part for part in reversed(self.modules) if not part.isdigit()), self.modules[-1])

    @cached_property
    def context(self) -> tuple[str, ...]:
        """The words before the leaf."""
        words = [part for part in self.modules if not part.isdigit()]
        return tuple(words[:-1])

    @cached_property
    def parent(self) -> str:
        """The module that holds the leaf, as written in the header."""
        parts = self.spec.name.split(".")
        return ".".join(parts[: len(self.modules) - 1])

    def sibling(self, word: str) -> bool:
        """Whether the parent has a child of that name."""
        return self.has(f"{self.parent}.{word}" if self.parent else word)

    @cached_property
    def attention(self) -> bool:
        """Whether the leaf lies inside an attention module."""
        return any(_WITHIN_ATTENTION.search(word) for word in self.context)


def role_of(parts: Parts) -> Role:
    """Returns the role that the words of a name tell, `Role.OTHER` when they tell none."""
    for reader in (_buffer, _norm, _state_space, _router, _around, _attention, _mlp, _embedding, _head):
        role = reader(parts)
        if role is not None:
            return role
    shape = parts.spec.shape
    if "conv" in parts.leaf or (len(shape) >= 3 and parts.modules[-1] != parts.spec.name.split(".")[-1].lower()):
        return Role.CONV
    return Role.OTHER


def _buffer(parts: Parts) -> Role | None:
    if parts.spec.dtype.kind in ("int", "bool") or parts.leaf in _BUFFERS:
        return Role.BUFFER
    # GPT-2 and its kin store the causal mask as `attn.bias`, shape (1, 1, positions, positions).
    masks = parts.spec.name.endswith(".bias") and len(parts.spec.shape) == 4
    return Role.BUFFER if masks else None


def _norm(parts: Parts) -> Role | None:
    if not _NORM.search(parts.leaf):
        return None
    return Role.ATTENTION_NORM if _ATTENTION_NORM.match(parts.leaf) else Role.NORM


def _state_space(parts: Parts) -> Role | None:
    if not any(_STATE_SPACE.match(word) for word in parts.context):
        return None
    return _role(_SSM, parts.leaf)


def _router(parts: Parts) -> Role | None:
    if parts.leaf in _ROUTERS or "router" in parts.context:
        return Role.ROUTER
    if parts.leaf == "gate" and any(parts.sibling(word) for word in ("experts", "expert")):
        return Role.ROUTER
    return None


def _around(parts: Parts) -> Role | None:
    """Modules around the blocks, whose leaves are called anything: projectors, poolers, task heads, patches."""
    for pattern, role in _CONTEXTS:
        if any(re.fullmatch(pattern, word) for word in (*parts.context, parts.leaf)):
            return role
    path = ".".join(parts.modules)
    if re.search(r"(predictions|lm_head)\.(transform\.)?dense$|generator_predictions\.dense$|^head\.dense$", path):
        return Role.HEAD_TRANSFORM
    if re.search(r"(predictions|lm_head)(\.decoder)?$|shared_head\.head$", path):
        return Role.HEAD
    return None


def _attention(parts: Parts) -> Role | None:
    role = _role(_ATTENTION, parts.leaf)
    if role is None and parts.attention:
        role = _role(_INSIDE_ATTENTION, parts.leaf)
    return role


def _mlp(parts: Parts) -> Role | None:
    leaf, outer = parts.leaf, parts.context[-1] if parts.context else ""
    name: str | None = _MLP.get(leaf)
    if leaf == "dense":
        name = {"intermediate": "UP", "intermediate_query": "UP", "output": "DOWN", "output_query": "DOWN"}.get(outer)
    elif leaf == "w1":
        name = "GATE" if parts.sibling("w3") or parts.sibling("v1") else "UP"
    elif leaf == "mlp" and parts.modules[-1].isdigit():
        name = "UP" if parts.modules[-1] == "0" else "DOWN"
    elif leaf == "proj" and outer in ("0", "net"):
        name = "UP"
    elif leaf == "net" and parts.modules[-1] == "2":
        name = "DOWN"
    if name is None:
        return None
    if any(word in _SHARED for word in parts.context):
        return Role[f"SHARED_{name}"]
    stacked = leaf in ("input_linear", "output_linear") and "block_sparse_moe" in parts.context
    if stacked or any(word in ("experts", "expert") for word in parts.context):
        return Role[f"EXPERT_{name}"]
    return Role[name]


def _embedding(parts: Parts) -> Role | None:
    return _role(_EMBEDDING, parts.leaf)


def _head(parts: Parts) -> Role | None:
    return _role(_HEAD, parts.leaf)


def _role(table: dict[str, str], leaf: str) -> Role | None:
    """Looks a word up, also with a trailing number (`layer_scale1`)."""
    name = table.get(leaf) or table.get(re.sub(r"_?\d+$", "", leaf))
    return Role[name] if name else None
