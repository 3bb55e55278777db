"""An example becomes a project: its files in the places where a project has its own."""

import json
import re
from pathlib import PurePosixPath
from typing import Any

from machinery.files import ROOT
from tools.making.chosen import EXAMPLES, example_files

#: What makes the runs of the tests short.
SHORT: dict[str, dict[str, Any]] = {
    "autoencoder": {"data_loader.args.validation_split": 80},
    "backbone_classifier": {
        "data_loader.args.batch_size": 10,
        "data_loader.args.validation_split": 80,
    },
    "char_lm": {"arch.args.width": 16, "data_loader.args.batch_size": 10},
    "contrastive": {"data_loader.args.batch_size": 50, "data_loader.args.validation_split": 80},
    "distillation": {"trainer.teacher_epochs": 1, "data_loader.args.validation_split": 80},
    "finetune": {
        "arch.args.name": "shufflenet_v2_x0_5",
        "arch.starting_args.weights": None,
        "arch.freeze": ["net.conv1*", "net.stage2*"],
        "data_loader.args.size": 32,
        "data_loader.args.batch_size": 5,
    },
    "gan": {"data_loader.args.validation_split": 80},
    "lbfgs": {"data_loader.args.batch_size": 500},
    "segmentation": {"data_loader.args.n": 101},
    "stream": {"valid_data_loader.args.samples": 130},
}
#: What two processes do, where it is not what one does.
TWO_PROCESSES = {
    "contrastive": "train",
    "gan": "train",
    "stream": "train",
}
#: Where the files of an example go; other code is a command, other files are data.
_PLACES = {
    "config.json": "config.json",
    "model.py": "model/model.py",
    "data.py": "data_loader/data_loaders.py",
    "metric.py": "model/metric.py",
    "optim.py": "model/parameter_groups.py",
    "shards.py": "data_loader/shards.py",
}
#: What is of the digits alone.
DIGITS = ("data/mnist5k.npz", "data/README.md")


class Move:
    """The files of an example, by the places that they have in a project.

    Args:
        example: its name.
    """

    def __init__(self, example: str) -> None:
        self.example = example
        names = []
        for each in _with_parts(example):
            files = example_files(each)
            if each != example:  # of which a part is taken, not the task
                files = [name for name in files if name.endswith(".py")]
            names += files
        self._texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in names}
        every = "".join(self._texts.values())
        #: Whether it is trained on the digits, and takes the template's network.
        self.takes_digits = "DigitsDataLoader" in every
        self.takes_network = "MnistModel" in every
        self._places = {name: self._place(name) for name in names}

    def _place(self, name: str) -> str:
        file = PurePosixPath(name)
        if file.name == "trainer.py":
            return f"trainer/{self.example}.py"
        if file.name == "data.py" and self.takes_digits:
            return f"data_loader/{self.example}.py"
        if file.name == "model.py" and self.takes_network:
            return f"model/{self.example}.py"
        if file.name in _PLACES:
            return _PLACES[file.name]
        if file.suffix == ".py":
            return f"tools/{file.name}"
        return f"data/{file.name}"

    def files(self) -> dict[str, str]:
        """The texts by their places."""
        found = {}
        for name, place in self._places.items():
            text = self._renamed(self._texts[name])
            if place == "config.json":
                text = _plain_names(text)
            if place.startswith("tools/"):
                text = text.replace(".parent.parent.parent", ".parent.parent")
            found[place] = text
        return found

    def _renamed(self, text: str) -> str:
        """A text that names modules and files of the example by where they are."""
        text = text.replace("../../config.schema.json", "config.schema.json")
        for name, place in self._places.items():
            text = text.replace(name, place)
            if name.endswith(".py"):
                module, new = (_module(each) for each in (name, place))
                text = re.sub(rf"\b{re.escape(module)}\b", new, text)
        return text

    def commands(self) -> list[str]:
        """The commands of its own, as the first lines of their files show them, and what for."""
        lines = []
        for place, text in self.files().items():
            shown = re.match(r'"""(.*): (python tools/.*)"""\n', text)
            if place.startswith("tools/") and shown:
                lines.append(f"{shown[2]:<50}  # {shown[1][0].lower()}{shown[1][1:]}")
        return lines

    def data(self) -> list[str]:
        """The files of data that git is to track."""
        return [place for place in self._places.values() if place.startswith("data/")]

    def title(self) -> str:
        """What the task is, in a few words."""
        page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
        row = re.search(rf"(?m)^\| \[{self.example}\]\(.*?\) \| (.*?) \|", page)
        if row is None:
            return self.example
        return row[1]


def _module(name: str) -> str:
    return name.removesuffix(".py").replace("/", ".")


def _plain_names(config: str) -> str:
    """A config that names by their names alone what is where it is looked up."""
    lines = []
    for line in config.splitlines(keepends=True):
        line = re.sub(r'"(model\.model|data_loader\.data_loaders)\.(\w+)"', r'"\2"', line)
        if '"loss"' not in line:
            line = re.sub(r'"model\.metric\.(\w+)"', r'"\1"', line)
        lines.append(line)
    return "".join(lines)


def _with_parts(example: str) -> list[str]:
    """An example, and the others that it has parts from."""
    found: list[str] = []
    waiting = [example]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.append(name)
            waiting += _named_in(name)
    return found


def _named_in(example: str) -> list[str]:
    """The examples that the code and the config of an example name."""
    names = []
    for path in sorted((EXAMPLES / example).iterdir()):
        if path.suffix in (".py", ".json"):
            names += re.findall(r"examples[./](\w+)", path.read_text(encoding="utf-8"))
    return names


def settled(text: str, move: Move | None) -> str:
    """The owner's page of tests, for an example."""
    if move is None:
        return text
    lines = ""
    for key, value in SHORT.get(move.example, {}).items():
        shown = json.dumps(value).replace("null", "None")
        lines += f'    "{key}": {shown},\n'
    if lines:
        text = text.replace("SHORT: dict[str, Any] = {}", f"SHORT: dict[str, Any] = {{\n{lines}}}")
    two = TWO_PROCESSES.get(move.example, "equal")
    return text.replace('TWO_PROCESSES = "equal"', f'TWO_PROCESSES = "{two}"')
