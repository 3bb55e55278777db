"""tools/show_data.py: what a loader really feeds."""

import re

import pytest
import torch
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401
from PIL import Image

from projects import ROOT
from scripts import run, words


def test_classes_are_those_that_are_called_so():
    from tools.pictures import labels_in

    k, label = torch.arange(3), torch.tensor([1, 1, 0])
    assert labels_in({"x": torch.zeros(3, 2), "k": k, "label": label}) == ("['label']", label)
    assert (
        labels_in((torch.zeros(3, 2), k, label)) == ("[1]", k)
        and labels_in([torch.zeros(3)]) is None
    )


def test_spreads_far_from_zero_are_exact():
    from tools.show_data import Stats

    for place, spread in ((1e9, 1.0), (-1e6, 0.01), (0.0, 3.0)):
        values = place + spread * torch.randn(4000, dtype=torch.float64)
        stats = Stats(values)
        for each in (values[:1], values[1:100], values[100:]):
            stats.add(each)
        assert (
            f"mean {float(values.mean()):.4g}, deviation {float(values.std(correction=0)):.4g}"
            in str(stats)
        )


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_a_loader_feeds_is_shown(tmp_path, split):
    printed = run(
        tmp_path,
        "tools/show_data.py",
        *words(tmp_path),
        "--split",
        split,
        "--out",
        tmp_path / "data.png",
    )
    n = {"train": 600, "test": 1000}[split]
    counts = [
        int(value.replace(",", ""))
        for value in re.findall(r"\d: ([\d,]+)", printed.split("classes")[1])
    ]
    assert f"{n:,} samples" in printed and len(counts) == 10 and sum(counts) == n
    assert "[64, 1, 28, 28] float32: -0.42" in printed and not (tmp_path / "models").exists()
    with Image.open(tmp_path / "data.png") as picture:
        width, height = picture.size
    assert (height > 0.6 * width) == (split == "train")  # as they are, and as they are trained on
    run(tmp_path, "tools/show_data.py", *words(tmp_path)[:2], "--set", "data_loader=null", code=2)
    if not (ROOT / "examples" / "tabular").is_dir():  # in a project that has begun with another
        return
    # A table.
    example = [
        "-c",
        "examples/tabular/config.json",
        "--set",
        f"data_loader.args.file={tmp_path / 'rents.csv'}",
    ]
    printed = run(tmp_path, "tools/show_data.py", *example, "--out", tmp_path / "table.png")
    assert "NaN or infinite" in printed and (tmp_path / "table.png").exists()
