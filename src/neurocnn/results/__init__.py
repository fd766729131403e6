"""Reading a result folder: its tables, metrics, models, and predictions for new data."""

from neurocnn.results.results import Results

__all__ = ["Results"]
