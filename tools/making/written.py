"""What the template writes for a project: each file with its content."""

import json
import re
from pathlib import Path

from machinery.files import ROOT
from tools.making import pages
from tools.making.chosen import SKELETON, Options, chosen_files, skeleton
from tools.making.history import commit_of
from tools.making.moved import DIGITS, Move, settled

#: Where the files of the skeleton go whose places would hide them, or mean something here.
_PLACES = {"ci-run": ".ci/run", "ci.yml": ".github/workflows/ci.yml"}
_PLACES["pre-commit.yaml"] = ".pre-commit-config.yaml"
#: What can be run.
_PROGRAMS = (".ci/run",)
#: What a project asks of mypy and pytest: your own code may go without annotations.
_SETTINGS = """
[[tool.mypy.overrides]]
module = ["train", "test", "data_loader.*", "model.*", "trainer.*", "examples.*"]
disallow_untyped_defs = false
disallow_incomplete_defs = false
disallow_any_generics = false
check_untyped_defs = false

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = [".", "tests"]
addopts = "--strict-markers -ra"

# What this project was made with; tools/update_project.py of the template reads it.
[tool.template]
commit = {commit}
name = {name}
"""
_PACKAGE = r"[^A-Za-z0-9]+"


def written(options: Options) -> dict[str, bytes]:
    """The files of a project, by their places."""
    move = None
    names = chosen_files(options)
    if options.example is not None:
        move = Move(options.example)
        if not move.takes_digits:
            names = [name for name in names if name not in DIGITS]
    found = {name: (ROOT / name).read_bytes() for name in names}
    if move is not None:
        found.update({name: text.encode() for name, text in move.files().items()})
    for path in skeleton():
        relative = path.relative_to(SKELETON).as_posix()
        found[_PLACES.get(relative, relative)] = path.read_bytes()
    _settle(found, options, move)
    return dict(sorted(found.items()))


def _settle(found: dict[str, bytes], options: Options, move: Move | None) -> None:
    """Let the files say what is so in this project."""
    absent = {path.name for path in (ROOT / "tools").glob("*.py")}
    absent -= {Path(name).name for name in found}
    for name, content in found.items():
        if name.endswith(".md") and name.startswith("docs/"):
            found[name] = pages.settled(name, content.decode(), found, absent).encode()
    config = json.loads(found["config.json"])
    run = config["name"]
    changes = {
        "README.md": lambda text: _readme(text, options.name, run, move, found),
        "AGENTS.md": lambda text: _named(text, options.name, run),
        "pyproject.toml": lambda text: _settings(text, options, found),
        "tests/test_mine.py": lambda text: settled(text, move),
        ".gitignore": lambda text: _ignored(text, move),
        "examples/slurm/train.sbatch": lambda text: _job(text, run),
    }
    for name, change in changes.items():
        found[name] = change(found[name].decode()).encode()


def _named(text: str, name: str, run: str) -> str:
    return text.replace("PROJECT", name).replace("CONFIG_NAME", run)


def _readme(text: str, name: str, run: str, move: Move | None, files: dict[str, bytes]) -> str:
    """The project's README, with the commands of its task and the pages that there are."""
    task = "the bundled digits"
    commands = ""
    if move is not None:
        task = f"{move.title()}, from the example `{move.example}`"
        commands = "".join(f"{line}\n" for line in move.commands())
    shown = []
    for page in sorted(files):
        if page.startswith("docs/") and page.endswith(".md"):
            title = files[page].decode().partition("\n")[0].removeprefix("# ")
            shown.append(f"[{title}]({page})")
    text = text.replace("TASK", task).replace("COMMANDS\n", commands)
    text = _named(text.replace("PAGES", ",\n".join(shown)), name, run)
    return re.sub(r"(?m)^(python .*?) +# ", lambda found: f"{found[1]:<50}  # ", text)


def _settings(text: str, options: Options, files: dict[str, bytes]) -> str:
    """pyproject.toml with a name of its own, what it wants, and how its checks are set."""
    package = re.sub(_PACKAGE, "-", options.name).strip("-").lower() or "project"
    text = re.sub(r"(?m)^name = .*$", f'name = "{package}"', text, count=1)
    text = re.sub(r"(?m)^(description|license) = .*\n", "", text)
    text = text.replace(
        "As in the requirements files; a test compares them.", "As in the requirements files."
    )
    wanted = re.findall(r"(?m)^[\w-]+[>=].*$", files["requirements-dev.txt"].decode())
    listed = "".join(f'    "{each}",\n' for each in wanted)
    text = re.sub(r"(?m)^dev = \[\n(.*\n)*?\]$", f"dev = [\n{listed}]", text)
    text = re.sub(r", \"tests/classic_project\"\]  #.*", "]", text)
    text = re.sub(r"(?m)^exclude = .*tools/project.*\n", "", text)
    text = re.sub(r"(?ms)^\[tool\.pytest\.ini_options\]\n.*?(?=^\[|\Z)", "", text)
    text = re.sub(r"(?m)^target-version = .*$", r'\g<0>\nsrc = [".", "tests"]', text)
    more = _SETTINGS.format(
        commit=json.dumps(commit_of(ROOT) or "unknown"),
        name=json.dumps(options.name, ensure_ascii=False),
    )
    if options.example is not None:
        more += f"example = {json.dumps(options.example)}\n"
    return text.rstrip("\n") + "\n" + more


def _ignored(text: str, move: Move | None) -> str:
    """.gitignore, with the data that a project has."""
    if move is None or move.takes_digits:
        return text
    kept = "".join(f"!{name}\n" for name in move.data())
    for name in DIGITS:
        text = text.replace(f"!{name}\n", "")
    return text.replace("data/*\n", f"data/*\n{kept}")


def _job(text: str, run: str) -> str:
    """The job for a cluster, with the name of the config."""
    word = re.sub(_PACKAGE, "-", run).strip("-").lower() or "run"
    return text.replace("Digits_LeNet", run).replace("digits", word)


def write(files: dict[str, bytes], target: Path) -> None:
    """Write the files of a project into a folder.

    Raises:
        OSError: one cannot be written.
    """
    for name, content in files.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        if name in _PROGRAMS:
            place.chmod(0o755)
