"""Synthetic CAPS of participants with and without a known effect."""

from neurocnn.data.synthetic.caps import make_caps

__all__ = ["make_caps"]
