"""Maps that a model keeps in one tensor, one behind the other along its outputs."""

from eutectic.layout.roles import Role

#: Modules that hold query, key and value so. Others mix them head by head (`query_key_value`, `wqkv`).
_IN_ORDER = frozenset(["c_attn", "in_proj", "in_proj_weight", "in_proj_bias", "Wqkv", "W_pack", "to_qkv", "qkv",
                       "qkv_proj", "att_proj"])  # fmt: skip
_HALVES = frozenset([Role.GATE_UP, Role.SHARED_GATE_UP])


def stacked(name: str, role: Role, shape: tuple[int, ...]) -> int:
    """Returns how many maps of one size a tensor holds, one behind the other; 1 where that is not known.

    Heads that share keys make parts of different sizes, which no name tells apart: such a tensor counts as one.
    """
    if role in _HALVES and len(shape) in (1, 2):
        return 1 if max(shape) % 2 else 2
    if role is not Role.QKV or not _IN_ORDER & set(name.split(".")):
        return 1
    if len(shape) == 1:
        return 1 if shape[0] % 3 else 3
    return 3 if len(shape) == 2 and max(shape) == 3 * min(shape) else 1
