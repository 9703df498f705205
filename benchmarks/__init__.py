"""One script a claim: each prints a ratio against a peer that was measured in the same run."""
