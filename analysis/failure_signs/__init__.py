"""The paper's failure signatures as one table with thresholds: `agevlm-eval failure-signs`."""
