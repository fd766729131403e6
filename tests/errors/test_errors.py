"""Errors keep their type and message when they are pickled."""

import pickle

from neurocnn import errors
from neurocnn.errors import NeurocnnError


def test_every_error_survives_pickling():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, NeurocnnError)]
    assert len(kinds) >= 9
    for kind in kinds:
        copy = pickle.loads(pickle.dumps(kind("what, where and what to do")))
        assert type(copy) is kind
        assert str(copy) == "what, where and what to do"
