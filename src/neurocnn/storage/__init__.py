"""Files that are written atomically and checked when read. This package imports only `errors`.

Importing it has one global effect: functions that run in forked child processes are registered, see `locks`.
"""

from neurocnn.storage.files import remove_leftovers, write_atomically
from neurocnn.storage.locks import hold
from neurocnn.storage.tables import read_table, write_table
from neurocnn.storage.tensors import load_tensors, plain, save_tensors

__all__ = [
    "hold",
    "load_tensors",
    "plain",
    "read_table",
    "remove_leftovers",
    "save_tensors",
    "write_atomically",
    "write_table",
]
