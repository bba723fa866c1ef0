"""What methods make of real experts: `python -m benchmarks.results` trains, merges, scores, writes `docs/results.md`."""
