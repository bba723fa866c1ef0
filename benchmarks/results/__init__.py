"""What methods make of experts: `python -m benchmarks.results` trains, merges, scores and writes `docs/results.md`."""
