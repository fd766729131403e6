"""Each kind of fault has a test that creates the fault, and there are more than 100 such tests."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

from faults.clauses import CLAUSES, COVERED, ELSEWHERE

HERE = Path(__file__).parent


def test_every_kind_of_fault_has_a_test():
    for module in HERE.glob("test_*.py"):  # The imports fill COVERED.
        importlib.import_module(f"faults.{module.stem}")
    elsewhere = {
        clause
        for clause, (file, name) in ELSEWHERE.items()
        if re.search(rf"@pytest\.mark\.faults\n(@.*\n)*def {name}\(", (HERE.parent / file).read_text())
    }
    clauses = {clause for topic in CLAUSES.values() for clause in topic}
    assert clauses - COVERED - elsewhere == set()


def test_there_are_more_than_100_tests_of_faults():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--co",
        "-m",
        "faults",
        "-p",
        "no:cacheprovider",
        str(HERE),
    ]
    listed = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1]).stdout
    assert listed.count("::") > 100
