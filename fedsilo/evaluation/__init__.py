"""Scores of a prediction and the statistics over them."""
