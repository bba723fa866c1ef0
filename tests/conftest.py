"""What every test shares: no network, and examples that are the same in CI on every run."""

import os

# Before huggingface_hub is imported, which reads it once: a test that reaches for the network fails at once.
os.environ["HF_HUB_OFFLINE"] = "1"

from hypothesis import HealthCheck, settings

# No deadline: the first call of a compiled kernel compiles it.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
