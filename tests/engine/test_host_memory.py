"""Freed memory is reused for the next batch, and returned to the system afterwards."""

import os
import subprocess
import sys

import pytest

from neurocnn.engine.host_memory import USER_SETTINGS, _c_function

SCRIPT = """
import resource
import torch
from neurocnn.engine.host_memory import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 * 2**20)  # 64 MiB, above the largest block that glibc reuses by default
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_pages():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

page_faults()
start = resident_pages()
outside = page_faults()
with keep_freed_memory():
    page_faults()
    with keep_freed_memory():
        page_faults()
    inside = page_faults()
    kept = resident_pages()
print(outside, inside, kept - start, resident_pages() - start)
"""


@pytest.mark.skipif(_c_function("mallopt") is None, reason="the C library is not glibc")
def test_pages_of_freed_blocks_are_mapped_once_during_the_block_and_returned_afterwards():
    environment = {name: value for name, value in os.environ.items() if name not in USER_SETTINGS}
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    outside, inside, kept, at_end = map(int, run.stdout.split())

    pages = 64 * 2**20 // 4096
    # The system maps pages one by one, or 512 at a time where it has huge pages.
    assert outside >= 10 * pages // 512
    assert inside < outside / 10
    assert kept > pages / 2
    assert at_end < pages / 4


def test_limits_of_the_user_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")

    assert _c_function.__wrapped__("mallopt") is None
