"""Print the lowest version of each dependency in pyproject.toml as constraints for pip.

python3 .ci/lowest.py > /tmp/lowest.txt && PIP_CONSTRAINT=/tmp/lowest.txt .ci/run --tests-only
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
requirements = project["dependencies"] + [
    one for extra in project["optional-dependencies"].values() for one in extra
]
for requirement in sorted(set(requirements)):
    if found := re.fullmatch(r"([\w-]+)>=([\w.]+)(;.*)?", requirement):
        print(f"{found[1]}=={found[2]}")
