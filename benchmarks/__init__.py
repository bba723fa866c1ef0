"""What eutectic costs: a command each, ratios measured in one run. `docs/performance.md` holds the table."""
