"""Votes, which combine the predictions for the parts of an image into a prediction for the image."""

from neurocnn.ensemble.voting import average, hard_vote, soft_vote
from neurocnn.ensemble.weights import part_balanced_accuracy, part_weights

__all__ = ["average", "hard_vote", "part_balanced_accuracy", "part_weights", "soft_vote"]
