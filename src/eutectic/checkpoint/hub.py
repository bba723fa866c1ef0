"""Models of the Hugging Face hub: planned from their headers, downloaded into the hub's own cache to be run.

The one place that imports huggingface_hub, inside its functions: local models are opened without it.
"""


