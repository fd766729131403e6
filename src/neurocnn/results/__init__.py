"""Result folders: their tables, metrics and models, and predictions for new data."""

from neurocnn.results.compare import compare
from neurocnn.results.leaderboard import leaderboard
from neurocnn.results.results import Results

__all__ = ["Results", "compare", "leaderboard"]
