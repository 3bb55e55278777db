"""What is run often, and what by .ci/run alone."""

import re

from projects import ROOT


def test_what_is_seldom_run_is_there():
    listed = (ROOT / "tests" / "conftest.py").read_text().split("OFTEN = {")[1].split("}")[0]
    names = re.findall(r'"(test_\w+)": (?:\d+|None),\n', listed)
    defined = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        defined.update(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    assert len(names) == len(set(names)) == listed.count("\n") - 1
    missing = set(names) - defined
    assert not missing or not (ROOT / "tools" / "new_project.py").exists(), missing
