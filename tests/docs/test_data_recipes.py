"""Data of other libraries in docs/own_tasks.md: each recipe as it stands trains, continues exactly
and is tested; with a stand-in of the library where it is not installed."""

import csv
import importlib.util
import io
import json
import re
import shutil
import tarfile

import numpy as np
import pytest
import torch.utils.tensorboard  # noqa: F401 - for all that is forked
from PIL import Image

from pages import log_of, run, runs
from projects import ROOT, command, copy_template

PAGE = (ROOT / "docs" / "own_tasks.md").read_text()
(SECTION,) = re.findall(r"\n## Data of other libraries\n(.*?)\n## ", PAGE, re.S)
STAND_INS = ROOT / "tests" / "helpers" / "stand_ins"
CLASSES = ["bar", "disc", "ring"]


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", SECTION, re.S)


def file_of(beginning):
    (text,) = [text for text in blocks("python") if text.startswith(f'"""{beginning}')]
    return text


def section_of(words):
    (text,) = [text for text in blocks("json") if words in text]
    return json.loads("{" + text + "}")


def config(name, arch, **changes):
    return {
        "base": "config.json",
        "name": name,
        "arch": arch,
        "loss": "cross_entropy",
        "metrics": ["accuracy"],
        "lr_scheduler": None,
        **changes,
    }


def write_flowers(folder):
    rng = np.random.default_rng(1)
    for name, n in (("flowers", 93), ("flowers-test", 31)):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["name", "width", "height", "label"])
            for i in range(n):
                label = int(i % 5 == 0) + int(i % 11 == 0)
                width, height = rng.normal(size=2) + np.array([label, -label])
                rows.writerow([f"n{i}", width, height, label])


def picture(rng, label):
    colour = np.zeros(3)
    colour[label] = 150
    return Image.fromarray((rng.random((20, 24, 3)) * 100 + colour).astype(np.uint8))


def write_shapes(folder):
    rng = np.random.default_rng(1)
    for part, n in (("train", 31), ("test", 7)):
        for label, name in enumerate(CLASSES):
            (folder / "shapes" / part / name).mkdir(parents=True)
            for i in range(n + label):
                picture(rng, label).save(folder / "shapes" / part / name / f"{i}.png")


def write_shards(folder):
    rng = np.random.default_rng(1)
    (folder / "shards").mkdir()
    for part, n in (("train", 93), ("test", 31)):
        for shard in range(3):
            with tarfile.open(folder / "shards" / f"{part}-{shard}.tar", "w") as tar:
                for i in range(shard, n, 3):
                    image = io.BytesIO()
                    picture(rng, i % 3).save(image, "png")
                    add(tar, f"{i:04}.cls", str(i % 3).encode())
                    add(tar, f"{i:04}.png", image.getvalue())


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def hub():
    data = section_of("data_loader.hub.table")
    linear = {"type": "torch.nn.Linear", "args": {"in_features": 2, "out_features": 3}}
    trainer = {"type": "trainer.columns.ColumnsTrainer", "monitor": "max val_accuracy"}
    return config("Hub", linear, **data, trainer=trainer)


PIXELS = {"type": "torchvision.models.squeezenet1_1", "args": {"num_classes": 3}}


def photos():
    args = {**section_of("data_loader.photos.Photos"), "batch_size": 16, "validation_split": 0.2}
    loader = {"type": "DatasetLoader", "args": args}
    trainer = {"monitor": "max val_accuracy"}
    return config("Photos", PIXELS, data_loader=loader, trainer=trainer)


def shards():
    data = section_of("data_loader.shards.ShardsLoader")
    return config("Shards", PIXELS, **data, trainer={"monitor": "off"})


#: By library: the files of the page, what writes the data, the config, and the samples of the test.
RECIPES = {
    "datasets": (
        {"data_loader/hub.py": "Datasets of", "trainer/columns.py": "Batches that"},
        write_flowers,
        hub,
        31,
    ),
    "albumentations": ({"data_loader/photos.py": "Photos in"}, write_shapes, photos, 24),
    "webdataset": ({"data_loader/shards.py": "Shards of"}, write_shards, shards, 31),
}


def project_of(library, folder):
    """A copy of the template with the files of a recipe and its data; and the library."""
    files, write, _, _ = RECIPES[library]
    copy_template(folder)
    if importlib.util.find_spec(library) is None:
        shutil.copy(STAND_INS / f"{library}.py", folder)
    for name, beginning in files.items():
        (folder / name).write_text(file_of(beginning))
    write(folder / "data")
    return folder


@pytest.fixture(scope="module", params=RECIPES)
def trained(request, tmp_path_factory):
    """The library, and a project after a training of three epochs."""
    _, _, make, _ = RECIPES[request.param]
    folder = project_of(request.param, tmp_path_factory.mktemp("recipe") / "project")
    settings = make()
    settings["trainer"]["epochs"] = 3
    (folder / "own.json").write_text(json.dumps(settings))
    assert "check passed" in run(folder, "train.py", "-c", "own.json", "--check")
    run(folder, "train.py", "-c", "own.json", "--run_id", "RUN")
    return request.param, folder, settings["name"]


def test_it_continues_exactly(trained):
    _, folder, name = trained
    before = log_of(folder, None, name=name)
    assert len(before) == 3
    again = shutil.copytree(folder, folder.parent / "again")
    run(again, "train.py", "-r", f"{runs(None, name=name)}/checkpoint-epoch2.pth")
    assert log_of(again, None, name=name) == before


def test_it_learns_something(trained):
    _, folder, name = trained
    first, *_, last = log_of(folder, None, name=name)
    assert last["loss"] < first["loss"]


def test_it_is_tested_on_its_test_data(trained):
    library, folder, name = trained
    run(folder, "test.py", "-r", runs(None, name=name))
    (result,) = json.loads((folder / runs(None, name=name) / "test.json").read_text())["results"]
    assert result["samples"] == RECIPES[library][3]


def test_workers_change_nothing_for_what_has_a_length(trained):
    library, folder, name = trained
    if library == "webdataset":
        pytest.skip("a stream keeps its own order")
    words = ["--set", "data_loader.args.num_workers=2", "--run_id", "WORKERS"]
    run(folder, "train.py", "-c", "own.json", *words)
    assert log_of(folder, None, "WORKERS", name) == log_of(folder, None, name=name)


def test_without_the_trainer_the_lines_are_told(trained, tmp_path):
    library, folder, _ = trained
    if library != "datasets":
        pytest.skip("its batches are pairs")
    words = ["train.py", "-c", "own.json", "--check", "--set", "trainer.type=Trainer"]
    said = run(folder, *words, code=2, output=tmp_path / "said.txt")
    assert "it is a dict (width: [16] float" in said
    assert "output = self.model(batch['width'], batch['height'])" in said


def test_the_files_are_clean(tmp_path):
    copy_template(tmp_path)
    names = {name: begin for files, *_ in RECIPES.values() for name, begin in files.items()}
    for name, beginning in names.items():
        (tmp_path / name).write_text(file_of(beginning))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for words in (["check"], ["format", "--check"]):
        result = command(tmp_path, "-m", "ruff", *words, "--no-cache", ".")
        assert result.returncode == 0, result.stdout
    assert len(blocks("python")) == len(names)
