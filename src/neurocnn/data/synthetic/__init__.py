"""A small synthetic CAPS whose correct answers are known."""

from neurocnn.data.synthetic.caps import make_caps

__all__ = ["make_caps"]
