"""Clustered statistics: scores of counts, intervals over images, ranking and calibration of probabilities."""
