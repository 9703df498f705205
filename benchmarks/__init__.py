"""Benchmark scripts: each prints measurements and checks claims, mostly ratios to a peer measured in the same run."""
