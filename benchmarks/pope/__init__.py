"""POPE: polling-based object probing (Li et al., EMNLP 2023, arXiv 2305.10355) and its descendants."""
