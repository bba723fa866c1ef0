"""Chat templates: how a conversation becomes text; read from model folders, or written by name."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from eutectic.errors import CheckpointError

_SYSTEM_FIRST = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
)

#: Formats that are published, written here as Jinja.
TEMPLATES: Mapping[str, str] = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
        "{{ message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "mistral": (
        _SYSTEM_FIRST + "{{ bos_token }}{% for message in turns %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + (system + '\\n\\n' if loop.first and system else '') + message['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    ),
    "alpaca": (
        _SYSTEM_FIRST + "{% if system %}{{ system + '\\n\\n' }}{% endif %}{% for message in turns %}"
        "{% if message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{% else %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    ),
    "exaone": (
        "{% if messages[0]['role'] != 'system' %}{{ '[|system|][|endofturn|]\\n' }}{% endif %}"
        "{% for message in messages %}{{ '[|' + message['role'] + '|]' + message['content'] }}"
        "{% if message['role'] == 'user' %}{{ '\\n' }}{% else %}{{ '[|endofturn|]\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
    ),
}
#: Files of a folder that hold templates.
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")


def is_template(text: str) -> bool:
    """Whether a recipe's `chat_template` is Jinja text rather than a name."""
    return "{{" in text or "{%" in text


def read_template(folder: Path | None) -> str | None:
    """Returns a model's chat template, the default one of several; None when it has none.

    Raises:
        CheckpointError: when a file is broken.
    """
    if folder is None:
        return None
    path = folder / "chat_template.jinja"
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
        for name in ("chat_template.json", "tokenizer_config.json"):
            path = folder / name
            said = json.loads(path.read_text(encoding="utf-8")).get("chat_template") if path.is_file() else None
            if isinstance(said, list):
                listed = {each["name"]: each["template"] for each in said}
                said = listed.get("default", next(iter(listed.values()), None))
            if isinstance(said, str):
                return said
    except (OSError, ValueError, RecursionError, AttributeError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: expected a chat template, found {error!r}; replace it") from error
    return None


def most_common(templates: Sequence[str | None]) -> str | None:
    """Returns the template most models have, the first one's where several are equally common."""
    counts = Counter(template for template in templates if template)
    return max(counts, key=lambda template: counts[template]) if counts else None
