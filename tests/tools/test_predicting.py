"""tools/predict.py for all kinds of tasks: what it says is what a few lines of numpy say."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision.datasets  # noqa: F401
from torch import nn
from torch.nn import functional as F

from machinery.errors import ConfigError, DataError
from projects import OWN, SHARED, copy_template, quick
from tools.trained import Seen

N = 7


def _told(monkeypatch, folder, outputs, targets, loader=None, inputs=None, trainer=None):
    """What is said of batches of three samples: rows, and lines."""
    from tools.predicting import heads

    def cut(value, part):
        if isinstance(value, dict):
            return {name: each[part] for name, each in value.items()}
        if isinstance(value, tuple):
            return tuple(each[part] for each in value)
        return value[part]

    def seen(_trained):
        for first in range(0, N, 3):
            part = slice(first, first + 3)
            batch = inputs[part] if inputs is not None else torch.zeros(len(range(N)[part]), 2)
            output = cut(outputs, part)
            yield Seen(((batch,), {}), output, output, cut(targets, part))

    monkeypatch.setattr(heads, "seen", seen)
    trained = SimpleNamespace(trainer=trainer or nn.Identity(), loader=loader, config=None)
    rows, kinds = heads.predictions_of(trained)
    return rows, list(heads.report(kinds, folder, 5))


@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 2)])
def test_numbers(monkeypatch, tmp_path, shape):
    draw = torch.Generator().manual_seed(0)
    target = torch.randn(shape, generator=draw)
    output = (target + 0.25 * torch.randn(shape, generator=draw)).reshape(N, -1)
    loader = SimpleNamespace(target_names=["rent", "size"])
    rows, lines = _told(monkeypatch, tmp_path, output, target, loader)
    names = ["_rent", "_size"] if shape[-1] == 2 else [""]
    apart = (output - target.reshape(N, -1)).double().numpy()
    flat = target.reshape(N, -1).double().numpy()
    for number, name in enumerate(names):
        found = [row[f"residual{name}"] for row in rows]
        np.testing.assert_allclose(found, apart[:, number], atol=1e-5)
        line = lines[1 + number].split()
        error = apart[:, number]
        r2 = 1 - (error**2).sum() / ((flat[:, number] - flat[:, number].mean()) ** 2).sum()
        expected = [abs(error).mean(), (error**2).mean() ** 0.5, error.mean(), r2]
        assert line[0] == (name.strip("_") or "output") and line[-1] == str(N)
        np.testing.assert_allclose([float(word) for word in line[1:5]], expected, rtol=5e-3)
    assert [row["sample"] for row in rows] == [*range(N)]
    assert (tmp_path / "residuals.png").stat().st_size > 1000


@pytest.mark.parametrize("kind", ["scores", "chances", "one"])
def test_labels(monkeypatch, tmp_path, kind):
    target = torch.tensor(
        [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0]]
    )
    scores = torch.where(target.bool(), 2.0, -3.0)
    scores[2, 1] = -0.5  # overlooked
    scores[5, 0] = 0.5  # made up
    if kind == "one":
        target, scores = target[:, 0].float(), scores[:, :1]
    loader = SimpleNamespace(classes=["a", "b", "c"])
    given = scores.sigmoid() if kind == "chances" else scores
    pictures = torch.rand(N, 1, 8, 8)
    rows, lines = _told(monkeypatch, tmp_path, given, target, loader, pictures)
    chance = float(torch.tensor(0.5).sigmoid())
    if kind == "one":
        assert lines[0].startswith("6 of 7") and rows[5]["predicted"] == "1"
        assert lines[2].split() == ["1", "0.8000", "1.0000", "0.8889", "4"]
        return
    assert lines[0] == "5 of 7 are right in all labels"
    assert (rows[2]["target"], rows[2]["predicted"]) == ("a;b;c", "a;c")
    assert (rows[1]["target"], rows[5]["predicted"]) == ("", "a;c")
    assert rows[5]["chance_of_a"] == pytest.approx(chance, abs=1e-5)
    assert [line.split()[0] for line in lines[2:5]] == ["a", "b", "c"]
    assert lines[3].split()[1:] == ["1.0000", "0.6667", "0.8000", "3"]
    assert (tmp_path / "wrong.png").exists()


@pytest.mark.parametrize("classes", [3, 1])
def test_masks(monkeypatch, tmp_path, classes):
    draw = torch.Generator().manual_seed(1)
    target = torch.randint(max(classes, 2), (N, 6, 5), generator=draw)
    if classes == 1:
        scores = (target[:, None] * 4 - 2).float()
        scores[3, 0, 2, 2] *= -1
        target = target.float()
    else:
        scores = F.one_hot(target, 3).movedim(-1, 1).float()
        scores[3, :, 2, 2] = scores[3, :, 2, 2].roll(1)
        target[0, 0] = -100  # counts nothing
    rows, lines = _told(monkeypatch, tmp_path, scores, target, None, torch.rand(N, 3, 6, 5))
    pixels = N * 30 - 5 * (classes == 3)
    assert lines[0] == f"{(pixels - 1) / pixels:.2%} of {pixels} pixels are right"
    assert [row["pixels_right"] for row in rows] == [1, 1, 1, pytest.approx(29 / 30), 1, 1, 1]
    said = scores[3].argmax(dim=0) if classes == 3 else (scores[3, 0] > 0).long()
    for k in range(max(classes, 2)):
        ours, theirs = said == k, target[3] == k
        expected = float((ours & theirs).sum() / (ours | theirs).sum())
        assert rows[3][f"iou_{k}"] == pytest.approx(expected, abs=1e-5)
    assert (tmp_path / "masks.png").exists()


@pytest.mark.parametrize("tokens_last", [True, False])
def test_text(monkeypatch, tmp_path, tokens_last):
    draw = torch.Generator().manual_seed(2)
    target = torch.randint(97, 120, (N, 9), generator=draw)
    scores = torch.randn(N, 9, 128, generator=draw) + 9 * F.one_hot(target, 128)
    scores[4, 5] = 0.0
    scores[4, 5, 65] = 1.0
    loss = F.cross_entropy(scores[:, 1:].flatten(0, 1), target[:, 1:].flatten())
    target[:, 0] = -100
    given = scores if tokens_last else scores.movedim(-1, 1)
    loader = SimpleNamespace(dataset=SimpleNamespace(decode=lambda codes: "".join(map(chr, codes))))
    rows, lines = _told(monkeypatch, tmp_path, given, target, loader)
    assert lines[0].startswith(f"{N * 8 - 1} of {N * 8} tokens are right")
    assert float(lines[1].split()[1]) == pytest.approx(float(loss), rel=1e-3)
    assert (rows[4]["tokens"], rows[4]["right"]) == (8, 7)
    assert rows[4]["predicted"] == rows[4]["target"][:4] + "A" + rows[4]["target"][5:]
    assert lines[2] == "sample 4: 7 of 8"


def test_several_heads_and_pictures(monkeypatch, tmp_path):
    target = {"kind": torch.arange(N) % 3, "age": torch.rand(N), "more": torch.zeros(N)}
    output = {"age": target["age"] + 0.5, "kind": F.one_hot(target["kind"], 3) * 5.0}
    rows, lines = _told(monkeypatch, tmp_path, output, target)
    assert rows[1]["kind_target"] == "1" and rows[1]["age_residual"] == pytest.approx(0.5)
    assert "kind:" in lines and "age:" in lines and "7 of 7 are right" in lines
    assert {path.name for path in tmp_path.iterdir()} == {"kind-confusion.png", "age-residuals.png"}
    both = (output["kind"], output["age"]), (target["kind"], target["age"])
    rows, _ = _told(monkeypatch, tmp_path, *both)
    assert rows[2]["head0_target"] == "2" and "head1_residual" in rows[2]
    # What comes beside the first output is by the way.
    pictures = torch.rand(N, 1, 5, 4) + 0.25
    outputs = (pictures * 0.5, torch.zeros(N, 2))
    rows, _ = _told(monkeypatch, tmp_path, outputs, pictures)
    expected = (0.5 * pictures).square().flatten(1).mean(dim=1)
    np.testing.assert_allclose([row["mse"] for row in rows], expected, rtol=1e-5)


def test_what_is_not_known_is_told_and_a_trainer_may_say_it(monkeypatch, tmp_path):
    complicated = torch.rand(N, 3, 2, 2, 2), torch.rand(N, 5)
    with pytest.raises(ConfigError, match=r"3, 2, 2, 2\] float32.*\n.*def predictions\(self, out"):
        _told(monkeypatch, tmp_path, *complicated)
    with pytest.raises(DataError, match="not finite"):
        _told(monkeypatch, tmp_path, torch.full((N,), torch.nan), torch.rand(N))

    class Mine(nn.Identity):
        def predictions(self, output, target):
            for ours, theirs in zip(output, target, strict=True):
                yield {"volume": float(ours.sum()), "first": float(theirs[0])}

    rows, lines = _told(monkeypatch, tmp_path, *complicated, trainer=Mine())
    assert len(rows) == N and lines == []
    assert rows[4] == {
        "sample": 4,
        "volume": float(complicated[0][4].sum()),
        "first": float(complicated[1][4, 0]),
    }


TABLE = """

class Table(BaseDataLoader):
    def __init__(self, training=True, **options):
        draw = torch.Generator().manual_seed(int(training))
        x = torch.rand(200, 3, generator=draw)
        y = x @ torch.tensor([1.0, -2.0, 0.5])
        super().__init__(torch.utils.data.TensorDataset(x, y), **options)
"""
LINEAR = """

class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 1)

    def forward(self, x):
        return self.fc(x)[:, 0]
"""
METRIC = "\n\ndef mae(output, target):\n    return (output - target).abs()\n"


def test_a_regression_from_end_to_end(tmp_path):
    """Its mean absolute error is that of test.py."""
    project = copy_template(tmp_path / "project", (*SHARED, *OWN, "tools"))
    for file, more in (
        ("data_loader/data_loaders.py", TABLE),
        ("model/model.py", LINEAR),
        ("model/metric.py", METRIC),
    ):
        with open(project / file, "a") as code:
            code.write(more)
    loader = '{"type": "Table", "args": {"batch_size": 16, "validation_split": 0.1}}'
    settings = {
        "arch": '{"type": "Line"}',
        "data_loader": loader.replace("}}", ', "shuffle": true, "num_workers": 0}}'),
        "loss": '{"type": "torch.nn.MSELoss"}',
        "metrics": '["mae"]',
        "n_gpu": "0",
        "trainer.epochs": "1",
    }
    given = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    result = quick(project, "train.py", "-c", "config.json", "--run_id", "a", *given)
    assert result.returncode == 0, result.stderr
    run = "saved/models/Digits_LeNet/a"
    tested = quick(project, "test.py", "-r", run).stdout
    said = quick(project, "tools/predict.py", "-r", run, "--out", "out")
    assert said.returncode == 0, said.stderr
    (line,) = [
        line
        for line in said.stdout.splitlines()
        if line.startswith("output  ") and "mae" not in line
    ]
    (mae,) = [line.split()[1] for line in tested.splitlines() if line.startswith("mae")]
    assert float(line.split()[1]) == pytest.approx(float(mae), rel=1e-3)
    with open(project / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    errors = [abs(float(row["residual"])) for row in rows]
    assert len(rows) == 200 and np.mean(errors) == pytest.approx(float(mae), rel=1e-3)


def test_a_picture_whose_truth_nobody_knows():
    """What the first batch has shown to be a score stays one, also where it is from 0 to 1."""
    from tools.predict import _row_of_file, _told
    from tools.predicting.kinds import Part
    from tools.predicting.labels import Labels
    from tools.predicting.numbers import Numbers

    labels = Labels(SimpleNamespace(classes=["a", "b"]))
    scores = torch.tensor([[3.0, -4.0], [-1.0, 2.0]])
    labels.add(Part(0, scores, torch.tensor([[1, 0], [0, 1]]), None))
    row = _row_of_file(labels, torch.tensor([0.5, -0.5]))
    assert row["chance_of_a"] == pytest.approx(1 / (1 + np.exp(-0.5)), abs=1e-5)
    assert row["predicted"] == "a" and "target" not in row and _told(row) == "a"
    numbers = Numbers(SimpleNamespace(target_names=["x", "y"]))
    numbers.add(Part(0, torch.rand(3, 2), torch.rand(3, 2), None))
    row = _row_of_file(numbers, torch.tensor([1.5, -2.0]))
    assert row == {"predicted_x": 1.5, "predicted_y": -2.0} and _told(row) == "1.5, -2.0"
