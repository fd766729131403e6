"""Freed memory is reused for the next batch, and returned to the system afterwards."""

import os
import subprocess
import sys

import pytest

from neurocnn.engine import host_memory
from neurocnn.engine.host_memory import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, USER_SETTINGS, _c_function

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


FORK = """
import os, threading, torch
from neurocnn.engine import host_memory as hm

calls = []
hm._set_thresholds = lambda *limits: calls.append(limits)
with hm._lock:  # as if another thread held it
    child = os.fork()
    if child == 0:
        with hm.keep_freed_memory():
            inside = list(calls)
        os._exit(0 if len(inside) == 1 and len(calls) == 2 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.cpu
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_wait_for_threads_of_its_parent():
    run = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, check=True, timeout=120
    )

    assert run.stdout.split() == ["0"]


def test_older_versions_of_glibc_reuse_blocks_of_the_size_that_they_allow(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def mallopt(name: int, value: int) -> int:
        calls.append((name, value))
        return int(name != M_MMAP_THRESHOLD or value <= 32 * 2**20)

    monkeypatch.setattr(host_memory, "_c_function", {"mallopt": mallopt}.get)
    host_memory._set_thresholds(host_memory.LARGEST_REUSED, 2**31 - 1)

    assert calls[1:] == [(M_MMAP_THRESHOLD, 32 * 2**20), (M_TRIM_THRESHOLD, 2**31 - 1)]
