"""Models that are merged as they run: layers that weigh experts anew for every input."""
