"""Real data sets, one file per source; each becomes a `Dataset`."""
