"""CV-Bench: multiple-choice questions about 2D and 3D vision (Tong et al. 2024, Cambrian-1, arXiv 2406.16860)."""
