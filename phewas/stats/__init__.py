"""AUCs, intervals, comparisons and baselines."""
