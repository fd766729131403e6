"""Synthetic CAPS of participants with and without simulated atrophy."""

from neurocnn.data.synthetic.caps import make_caps

__all__ = ["make_caps"]
