"""Each kind of fault has a test that makes it for real, and there are more than 100 of them."""

import re
import subprocess
import sys
from pathlib import Path

from faults.clauses import CLAUSES, COVERED, ELSEWHERE

ROOT = Path(__file__).parents[2]


def test_every_clause_has_a_test():
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--co", "-m", "faults", "tests", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout.splitlines()
    tests = [line for line in listed if "::" in line]
    assert len(tests) > 100
    # Importing the modules of this folder has filled COVERED.
    for module in Path(__file__).parent.glob("test_*.py"):
        if module.stem != "test_clauses":
            __import__(f"faults.{module.stem}")
    elsewhere = {
        clause
        for clause, (file, name) in ELSEWHERE.items()
        if any(line.startswith(file) and re.search(name, line) for line in tests)
    }
    clauses = {clause for topic in CLAUSES.values() for clause in topic}
    assert clauses - COVERED - elsewhere == set()
