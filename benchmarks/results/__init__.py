"""What methods make of real experts: trains, merges, scores and writes `docs/results.md` (`python -m benchmarks.results`)."""
