"""tools/predict.py: predictions of a split and of files."""

import csv
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401
from PIL import Image

from machinery.checkpoints import file as checkpoint
from machinery.files import read_json
from scripts import run


def test_chances_are_those_of_scores_and_of_probabilities():
    from tools.predicting.classes import chances_of
    from tools.trained import classes_of

    for classes in (["a", "b"], {"a": 0, "b": 1}, {0: "a", 1: "b"}):
        assert (
            classes_of(SimpleNamespace(classes=classes), 2)
            == classes_of(SimpleNamespace(classes=classes))
            == ["a", "b"]
        )
    assert classes_of(SimpleNamespace(classes={1: "a", 2: "b"})) == ["0", "a", "b"]
    for nonsense in (
        {"cat": "n02123"},
        {"a": 0, "b": 10**10},
        {"a": None},
        {(1, 2): "a"},
        {0.5: "a"},
    ):
        assert classes_of(SimpleNamespace(classes=nonsense)) == []
    assert (
        classes_of(SimpleNamespace(classes=10), 2) == ["0", "1"]
        and classes_of(SimpleNamespace(classes=None)) == []
    )
    expected = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    for scores in (expected, expected.log(), expected.log() + 5):
        assert torch.allclose(chances_of(scores.float()), expected, atol=1e-6)


def test_predictions_of_a_split_are_those_of_the_test(trained):
    out, model = trained / "said", trained / "models" / "Digits_LeNet" / "a"
    printed = run(trained, "tools/predict.py", "-r", model, "--out", out)
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["target"] == row["predicted"] for row in rows)
    (tested, *_) = read_json(model / "test.json")["results"]
    assert len(rows) == 1000 and right == round(1000 * tested["metrics"]["accuracy"])
    assert (
        f"{right} of 1,000 are right" in printed
        and (out / "confusion.png").exists()
        and (out / "wrong.png").exists()
    )
    classes = re.findall(r"^(\d) +(\S+) +(\S+) +(\S+) +(\d+)$", printed, re.M)
    recalled = {
        name: sum(r["target"] == r["predicted"] == name for r in rows) / 100 for name, *_ in classes
    }
    assert all(
        float(recall) == pytest.approx(recalled[name], abs=1e-4) for name, _, recall, *_ in classes
    )


def test_predictions_of_files_are_those_of_the_split(trained):
    out, model = trained / "said", trained / "models" / "Digits_LeNet" / "a"
    run(trained, "tools/predict.py", "-r", model, "--out", out)
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    from data_loader.data_loaders import MNIST_MEAN, MNIST_STD, DigitsDataLoader

    images = DigitsDataLoader(training=False).dataset.images[::300]
    files = [trained / f"{i}.png" for i in range(len(images))]
    for file, image in zip(files, images, strict=True):
        pixels = ((image[0] * MNIST_STD + MNIST_MEAN) * 255).round().byte()
        Image.fromarray(pixels.numpy()).save(file)
    told = run(trained, "tools/predict.py", "-r", model, *files, "--out", out)
    assert re.findall(r"\.png: (\d)", told) == [rows[i]["predicted"] for i in range(0, 1000, 300)]
    (trained / "no.png").write_text("no picture")
    (trained / "no.blp").write_bytes(b"BLP2" + bytes(200))
    numbers = Image.fromarray(pixels.numpy().astype("float32") / 255)
    numbers.save(trained / "floats.tiff")
    for name, told in (
        ("no.png", "cannot be read"),
        ("no.blp", "cannot be read"),
        ("floats.tiff", "known range"),
    ):
        assert told in run(trained, "tools/predict.py", "-r", model, trained / name, code=3)
    # Sixteen bits are no other picture; a name that is no text is no obstacle.
    fine = trained / os.fsdecode(b"fine\xff.png")
    Image.fromarray(pixels.numpy().astype("uint16") * 257).save(fine)
    rows = {}
    for file in (fine, files[-1]):
        run(trained, "tools/predict.py", "-r", model, file, "--out", out)
        with open(out / "predictions.csv", newline="", encoding="utf-8") as table:
            (rows[file],) = csv.DictReader(table)
    assert {row.pop("file") for row in rows.values()} == {str(files[-1]), f"{trained}/fine?.png"}
    assert rows[fine] == rows[files[-1]]
    content = checkpoint.load(Path(model) / "model_best.pth")
    next(iter(content["state_dict"].values())).fill_(float("nan"))
    checkpoint.save(content, trained / "nan.pth")
    assert "not finite" in run(
        trained, "tools/predict.py", "-r", trained / "nan.pth", files[-1], code=3
    )
