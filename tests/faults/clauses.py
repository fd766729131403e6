"""Kinds of invalid input and faults, by topic. The tests in this folder create each of them."""

import contextlib
import pickle
import warnings
from collections.abc import Callable, Iterator

import pytest

import neurocnn as nc

CLAUSES = {
    "tables": [
        "missing file",
        "empty",
        "header only",
        "required column absent",
        "comma-separated",
        "ragged line",
        "column twice",
        "session twice",
        "id without prefix",
        "sub-1 against sub-001",
        "not UTF-8",
        "NUL or unclosed quote",
        "spaces around a value",
        "separator or .. in an id",
        "only n/a and empty cells are missing",
        "UTF-16",
        "number column with one string",
        "number that overflows or of another script",
        "value that a table cannot return",
        "ids that differ only in case, normalisation or invisible characters",
        "index column of pandas",
    ],
    "images": [
        "root or subjects missing",
        "images missing",
        "two files match",
        "zero bytes",
        "not gzip",
        "gzip named .nii",
        "truncated",
        "flipped bit",
        "header that claims too much",
        "impossible shape",
        "unknown type",
        "NaN or infinite voxels",
        "NaN or singular affine",
        "other shape than the cohort",
        "constant image",
        "stale tensor",
        "damaged or malicious tensor",
        "mixed orientations",
        "BIDS entities",
        "dead link, annex pointer, unreadable file",
        "other voxel size, origin or rotation",
        "header without orientation",
        "tensors without NIfTI",
        "no disk space to prepare",
    ],
    "labels and splits": [
        "missing label",
        "unknown label",
        "single class",
        "participant in two sets",
        "fewer participants than splits",
        "no split tree",
        "cohorts that differ",
        "file for a folder and the reverse",
    ],
    "who is who": [
        "cohort column without cohorts, or with empty cells",
        "one folder under two cohort names",
        "cohort renamed later",
        "seen.tsv that disagrees",
        "labels changed since",
        "moved CAPS",
        "images replaced",
    ],
    "parts": [
        "region outside",
        "too many slices discarded",
        "size or stride below 1",
        "mask empty, not 0/1 or of another shape",
        "multi with one part",
    ],
    "networks": [
        "plugin that fails to import",
        "two plugins with one name",
        "hook with another signature",
        "builder without a module",
        "outputs of another shape",
        "unknown name",
        "layer that cannot be transposed",
        "torchvision missing",
        "ImageNet weights missing",
        "network for another size",
        "lazy layers",
    ],
    "checkpoints": [
        "truncated, empty or text",
        "flipped bit in a file",
        "pickle payload",
        "other layers",
        "resumed with other settings",
        "NaN weights",
    ],
    "arguments": [
        "another kind of value",
        "near name of a keyword",
        "weights by label",
        "NaN, zero, negative numbers",
    ],
    "training": [
        "loss that is not finite",
        "out of memory",
        "Ctrl-C and SIGTERM",
        "SIGKILL",
        "full disk",
        "read-only folder",
        "two runs in one folder",
        "existing result folder",
        "worker that dies",
        "last batch of one",
        "parts of unequal size",
        "NaN outputs",
        "no compiler",
        "failed before the first score",
        "no file locks",
        "autoencoder above the mean image",
        "two runs in two threads",
        "fork after training",
        "workers in a daemonic process",
        "augmentation that hides its generator",
        "other number of threads",
        "wrapper that hides participants",
    ],
    "votes and ranks": [
        "all weights zero",
        "missing part",
        "NaN probabilities",
        "two true labels",
        "threshold without parts",
        "rank that dies or hangs",
        "uneven data over ranks",
    ],
    "files from others": [
        "well-formed with other content",
        "compressed to gigabytes",
        "deeply nested",
        "links for locks",
        "names with ..",
        "many empty gzip members",
        "plugin that raises anything",
    ],
}

#: File and name of the tests of kinds of faults that need the fixtures of other folders.
ELSEWHERE = {
    "rank that dies or hangs": (
        "engine/test_ranks.py",
        "test_a_rank_that_dies_or_hangs_ends_the_job_with_an_error_that_names_it",
    ),
    "uneven data over ranks": (
        "engine/test_ranks.py",
        "test_an_evaluation_by_ranks_has_each_sample_once_and_equals_one_process",
    ),
}

COVERED: set[str] = set()


def covers(*clauses: str) -> pytest.MarkDecorator:
    """Mark a test, or a case of a test, as a test of these kinds of faults."""
    known = {clause for topic in CLAUSES.values() for clause in topic}
    assert set(clauses) <= known, set(clauses) - known
    COVERED.update(clauses)
    return pytest.mark.faults(*clauses)


@contextlib.contextmanager
def messages(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Collect the warnings and the messages of the logger in a list, which is complete after the block."""
    found: list[str] = []
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught, caplog.at_level("INFO", "neurocnn"):
        warnings.simplefilter("always")
        yield found
    found += [str(one.message) for one in caught] + [one.getMessage() for one in caplog.records]


def refuse(action: Callable[[], object], kind: type[Exception], *words: str) -> str:
    """Assert that `action` raises this kind of error with these words, and that the error survives pickling."""
    with pytest.raises(kind) as caught:
        action()
    error = caught.value
    assert isinstance(error, nc.NeurocnnError)
    message = str(error)
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), message)
    return message
