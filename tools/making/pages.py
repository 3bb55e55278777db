"""The template's pages in a project: nothing of what it does not have."""

import posixpath
import re
from collections.abc import Collection
from pathlib import PurePosixPath

#: What the tree of files says that the folder of data holds.
DIGITS = "data/mnist5k.npz"
#: What the template's pages say of the template, and what a project's say; as regular expressions.
_SAID = (
    ("docs/how_it_works.md", r"(?m)^examples/ .*$", "examples/            {examples}"),
    ("docs/how_it_works.md", r"(?ms)^tests/ .*?(?=^```)", "tests/               {tests}\n"),
    ("docs/exactness.md", r"held by `tests/`", "held by the template's `tests/`"),
    ("docs/tools.md", r"(?ms)^## A project of your own\n.*?(?=^## )", ""),
)
_EXAMPLES = "debug/ and slurm/ are used as they are; of lbfgs/ the trainer; trackers.py"
_TESTS = (
    "pytest: test_project.py is about any config.json; test_mine.py is for yours;\n"
    "                     running.py has how commands are run there"
)


def settled(page: str, text: str, files: Collection[str], tools: Collection[str]) -> str:
    """A page of the template, for a project.

    Args:
        page: its place.
        files: what the project has; what else a page links to becomes plain text.
        tools: names of the template's tools that it does not have.
    """
    for name, old, new in _SAID:
        if name == page:
            text = re.sub(old, new.format(examples=_EXAMPLES, tests=_TESTS), text)
    if page == "docs/how_it_works.md":
        text = _without_tools(text, tools)
        if DIGITS not in files:
            text = re.sub(r"(?m)^data/( +)the bundled digits; ", r"data/\1", text)

    def named(found: re.Match[str]) -> str:
        place = found[1].rstrip("/")
        if any(name == place or name.startswith(f"{place}/") for name in files):
            return found[0]
        return f"{found[0]} of the template"

    text = re.sub(r"`((?:examples|tests)/[\w/.]*)`(?! of the template)", named, text)

    def linked(found: re.Match[str]) -> str:
        target = found[2].partition("#")[0]
        place = posixpath.normpath(str(PurePosixPath(page).parent / target))
        if re.match(r"https?:", found[2]) or not target or place in files:
            return found[0]
        return found[1]

    return re.sub(r"(?<!!)\[([^][]*)\]\(([^)\s]+)\)", linked, text)


def _without_tools(text: str, tools: Collection[str]) -> str:
    """The tree of files, without some tools."""
    lines = []
    for line in text.splitlines():
        left = line
        if line.startswith((" " * 21, "tools/ ")):
            for name in re.findall(r"\w+\.py", line):
                if name in tools:
                    left = re.sub(rf"\b{name} ?", "", left).rstrip()
        if left.strip() or not line:
            lines.append(left)
    return "\n".join(lines) + "\n"
