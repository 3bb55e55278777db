"""tools/show_data.py: what a loader really feeds."""

import re
from types import SimpleNamespace

import pytest
import torch
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401
from PIL import Image

from data_loader.data_loaders import ImageLoader
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
    assert "\nNaN or infinite: floor " in printed and (tmp_path / "table.png").exists()


def test_columns_have_names_and_their_own_holes(tmp_path):
    from tools.feeding.columns import Columns

    x = torch.rand(10, 3)
    x[:4, 1] = torch.nan
    x[9, 2] = torch.inf
    y = torch.rand(10)
    for loader, names in (
        (SimpleNamespace(columns=["a", "b", "c"], target_names="t"), ["a", "b", "c", "t"]),
        (
            SimpleNamespace(dataset=SimpleNamespace(feature_names=("a", "b", "c"))),
            ["a", "b", "c", "target"],
        ),
        (SimpleNamespace(columns=["a", "b"]), ["column 0", "column 1", "column 2", "target"]),
    ):
        found = Columns(loader)
        for part in (slice(0, 7), slice(7, 10)):
            found.add((x[part], y[part]))
        assert found.names == names
        assert [*found.lines()] == [f"NaN or infinite: {names[1]} 40.0%, {names[2]} 10.0%"]
        assert found.draw(tmp_path / "table.png") and (tmp_path / "table.png").exists()
        assert torch.equal(torch.cat(found.kept)[:, 3], y.double())
    found = Columns(SimpleNamespace())
    found.add({"x": x[3:7, :1], "y": torch.rand(4, 2)})
    assert found.names == ["column 0", "target 0", "target 1"] and found.inputs == 1
    empty = Columns(SimpleNamespace())
    empty.add(torch.rand(4, 1, 8, 8))
    assert not empty.draw(tmp_path / "no.png") and not [*empty.lines()]


@pytest.mark.parametrize("how", ["mask", "pad", "neither"])
def test_text_has_lengths_and_tokens(tmp_path, how):
    from tools.feeding.tokens import Tokens

    ids = torch.tensor([[5, 6, 0, 7, 0, 0], [5, 0, 0, 0, 0, 0], [5, 5, 5, 6, 6, 8]])
    batch = {"input_ids": ids, "label": torch.tensor([0, 1, 1])}
    loader = SimpleNamespace(decode=lambda tokens: "".join("abcdefghi"[each] for each in tokens))
    if how == "mask":
        batch["attention_mask"] = torch.tensor(
            [[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
        )
    if how == "pad":
        loader.pad_id = 0
    found = Tokens(loader)
    found.add(batch)
    assert found.lengths == ([6, 6, 6] if how == "neither" else [4, 1, 6])
    first, second, *shown = found.lines()
    assert first.startswith("text ['input_ids']: 3 sequences, ")
    if how != "neither":
        assert "1 to 6 long, mean 3.667" in first and found.counts[0] == 1
        assert second == "tokens: 11, 5 different ones: 5 'f' 45.5%, 6 'g' 27.3%, " + ", ".join(
            f"{token} '{text}' 9.1%" for token, text in ((0, "a"), (7, "h"), (8, "i"))
        )
        assert shown == ["  fgah", "  f", "  fffggi"]
    assert found.draw(tmp_path / "text.png") and (tmp_path / "text.png").exists()


def test_masks_are_those_of_the_pixels():
    from tools.pictures import overlay
    from tools.show_data import masks_in

    images = torch.rand(2, 3, 5, 4)
    mask = torch.randint(3, (2, 5, 4))
    for batch in ((images, mask), (images, mask[:, None]), {"mask": mask, "image": images}):
        assert torch.equal(masks_in(batch, images), mask)
    assert torch.equal(masks_in((images, (mask > 0).float()), images), (mask > 0).long())
    assert masks_in((images, images[:, :1]), images) is None
    assert masks_in((images, torch.rand(2, 5, 4)), images) is None
    drawn = overlay(images[0], mask[0])
    assert drawn.shape == (3, 5, 4) and bool((drawn >= 0).all()) and bool((drawn <= 1).all())
    grey = drawn.amax(dim=0) - drawn.amin(dim=0) < 1e-6
    assert torch.equal(grey, mask[0] == 0)


@pytest.mark.parametrize("given", [{}, {"in_memory": True, "cutmix": 1.0}])
def test_images_that_travel_as_bytes_are_shown_as_they_arrive(tmp_path, given):
    from machinery.arriving import on_host
    from tools.pictures import images_in
    from tools.show_data import Feed, Summary, _words, first_batch, without_augmentation

    rows = torch.arange(9.0)[:, None].expand(9, 7).byte()
    data = [(torch.stack([rows + k, rows, rows]), k % 3) for k in range(12)]
    maker = SimpleNamespace(made=lambda training: data, evaluated=lambda dataset: dataset)
    loader = ImageLoader(
        maker, [0.0] * 3, [1 / 255] * 3, flip=1.0, crop=2, classes=3, batch_size=12, **given
    )
    feed = Feed(loader, 1, True)
    batch = first_batch(feed)
    trained, plain = images_in(on_host(batch)), images_in(on_host(without_augmentation(feed)))
    assert not torch.equal(trained, plain)
    for image in plain:
        assert torch.allclose(image[1], rows.float(), atol=1e-4)
    summary = Summary(loader)
    summary.add(batch)
    kinds = {place: stats.what for place, stats in summary.stats.items()}
    assert kinds["[0]"] == "[12, 3, 9, 7] float32" and list(kinds) == ["[0]", "[1]"]
    assert sum(summary.classes.values()) == 12
    words_below = _words(batch, 12, ["a", "b", "c"])
    assert (words_below[0] in "abc") == (not given) and ("%" in words_below[0]) == bool(given)
