"""Reading a result folder: its tables, metrics, models, and predictions for new data."""

from neurocnn.results.compare import compare
from neurocnn.results.results import Results

__all__ = ["Results", "compare"]
