"""The teacher: regions of phrases, found by detectors and segmenters or known from annotations."""
