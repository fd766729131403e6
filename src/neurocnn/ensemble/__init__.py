"""Votes: one prediction per image from those for its parts."""

from neurocnn.ensemble.voting import average, hard_vote, soft_vote
from neurocnn.ensemble.weights import part_balanced_accuracy, part_weights

__all__ = ["average", "hard_vote", "part_balanced_accuracy", "part_weights", "soft_vote"]
