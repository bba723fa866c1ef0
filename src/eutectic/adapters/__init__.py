"""Low-rank adapters: PEFT folders as differences from a base, or folded into it."""
