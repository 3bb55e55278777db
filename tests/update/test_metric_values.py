"""Metrics that give more than a number: dicts, a value for each class, tables; and the trainer's
own numbers."""

import csv

import pytest
import torch

import exact
import ranks
import tiny
from logger.pictures import draw_tables
from machinery.errors import ConfigError
from machinery.update.metric_values import names_of_classes
from parse_config import ConfigParser
from tiny import interrupted
from utils import MetricTracker

CLASSES = ["red fish", "blue", "green"]


class Named(tiny.TinyLoader):
    """Its classes have names."""

    classes = CLASSES


class Recall:
    """Counts hits by class, and gives them in several forms."""

    __name__ = "recall"
    form = "vector"

    def __init__(self, form="vector"):
        self.form = form
        self.reset()

    def reset(self):
        self.counts = torch.zeros(3, 3, dtype=torch.float64)

    def update(self, output, target):
        self.counts += torch.bincount(target * 3 + output.argmax(1), minlength=9).view(3, 3)

    def merge_state(self, other):
        self.counts += other.counts

    def compute(self):
        recall = self.counts.diagonal() / self.counts.sum(1).clamp_min(1)
        forms = {
            "vector": recall,
            "list": recall.tolist(),
            "dict": {"macro": recall.mean(), "each": recall, "of": {"blue": recall[1]}},
            "table": self.counts,
            "cube": self.counts[None],
            "text": "good",
        }
        return forms[self.form]

    def state_dict(self):
        return {"counts": self.counts}

    def load_state_dict(self, state):
        self.counts = state["counts"].clone()


def by_parts(output, target):
    """A function that gives a dict, of a value for each sample and of a mean."""
    hit = (output.argmax(1) == target).float()
    return {"hit": hit, "mean": hit.mean()}


@pytest.fixture(autouse=True)
def in_tiny(monkeypatch):
    for part in (Named, Recall, by_parts):
        monkeypatch.setattr(part, "__module__", "tiny")
        monkeypatch.setattr(tiny, part.__name__, part, raising=False)


def settings(folder, *metrics, monitor="min val_loss", **changes):
    changes = {"data_loader__type": "Named", **changes}
    return tiny.settings(folder, metrics=list(metrics), trainer__monitor=monitor, **changes)


def last_row(trainer):
    with open(trainer.config.log_dir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))[-1]


def recall(form):
    return {"type": "Recall", "name": form, "args": {"form": form}}


def test_dicts_and_values_for_each_class_have_names(tmp_path):
    metrics = [recall("vector"), recall("list"), recall("dict"), "by_parts", "accuracy"]
    row = last_row(tiny.train(settings(tmp_path, *metrics, monitor="max val_vector/red_fish")))
    for each in ("", "val_"):
        for name in ("red_fish", "blue", "green"):
            assert row[f"{each}vector/{name}"] == row[f"{each}list/{name}"]
            assert row[f"{each}vector/{name}"] == row[f"{each}dict/each/{name}"]
        assert row[f"{each}dict/of/blue"] == row[f"{each}vector/blue"]
        assert row[f"{each}by_parts/hit"] == row[f"{each}accuracy"]
        assert float(row[f"{each}by_parts/mean"]) == pytest.approx(float(row[f"{each}accuracy"]))
    assert float(row["val_vector/blue"]) > 0


def test_classes_without_names_have_numbers(tmp_path):
    for loader, names in ((tiny.TinyLoader, None), (Named, ["a", "b"]), (Named, ["a", "a", "b"])):
        if names is not None:
            loader = type("Named", (Named,), {"classes": names, "__module__": "tiny"})
            tiny.Named = loader
        config = settings(tmp_path, recall("vector"), data_loader__type=loader.__name__)
        row = last_row(tiny.train({**config, "name": f"N{names and len(names)}"}))
        assert {"vector/0", "val_vector/2"} <= row.keys()


def test_only_the_validation_data_has_names(tmp_path):
    """They may be monitored all the same."""
    parser = ConfigParser(
        tiny.settings(tmp_path, metrics=[recall("vector")], trainer__monitor="max val_vector/blue")
    )
    loader = parser.init_obj("data_loader", tiny.HERE)
    valid = loader.split_validation()
    valid.classes = CLASSES
    row = last_row(tiny.train(parser, data_loader=loader, valid_data_loader=valid))
    assert {"vector/1", "val_vector/blue"} <= row.keys()


@pytest.mark.parametrize(
    ("form", "monitor", "message"),
    [
        (
            "vector",
            "max val_vector",
            r"monitor: val_vector has no 'val_vector'; there are: val_vec",
        ),
        ("vector", "max val_vector/blu", r"there are: val_vector/red_fish, val_vector/blue, val_v"),
        ("dict", "max dict/micro", r"dict has no 'dict/micro'; there are: dict/macro, dict/each/r"),
        ("table", "max val_table", r"val_table is a table, and no number"),
        ("cube", "max cube", r"cube: expected a number, found \[1, 3, 3\] float64"),
        ("text", "max text", r"text: expected a number, found a str"),
        ("vector", "max val_vektor/1", r"no metric is called 'val_vektor/1'; there are: loss, ve"),
    ],
)
def test_what_a_metric_does_not_give_is_told_with_the_first_update(
    tmp_path, form, monitor, message
):
    seen = []

    class Counting(tiny.Trainer):
        def _update(self, batches):
            seen.append(len(batches))
            super()._update(batches)

    config = settings(tmp_path, recall(form), monitor=monitor)
    with pytest.raises(ConfigError, match=message):
        tiny.train(config, trainer_class=Counting)
    most = 1 if form not in ("cube", "text") else 100  # these are no numbers of any name
    assert len(seen) <= most


def test_two_numbers_of_one_name_are_refused(tmp_path):
    metrics = [recall("vector"), {"type": "accuracy", "name": "vector/blue"}]
    with pytest.raises(
        ConfigError, match="two numbers are called 'vector/blue': give one a \"name\""
    ):
        tiny.train(settings(tmp_path / "a", *metrics, trainer__epochs=1))
    metrics[1]["name"] = "blue"
    assert "vector/blue" in last_row(tiny.train(settings(tmp_path / "b", *metrics)))


def test_tables_become_pictures(tmp_path, monkeypatch):
    trainer = tiny.train(settings(tmp_path, recall("table"), trainer__tensorboard=True))
    names = sorted(file.name for file in trainer.checkpoint_dir.glob("*.png"))
    assert names == ["valid_table.png"]
    from matplotlib import image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = image.imread(trainer.checkpoint_dir / names[0])
    assert picture.shape[0] > 300 and picture.std() > 0.05
    events = EventAccumulator(str(trainer.config.log_dir / "valid"), {"images": 0})
    events.Reload()
    assert [event.step for event in events.Images("table")] == [11, 22, 33]
    # One that cannot be written is told, and training goes on.
    target = trainer.checkpoint_dir / names[0]
    target.unlink()
    target.mkdir()
    draw_tables(trainer.valid_metrics, trainer.checkpoint_dir, "valid")
    target.rmdir()
    trainer.valid_metrics.tables = {"large": torch.rand(80, 80), "flat": torch.full((1, 2), -1.5)}
    draw_tables(trainer.valid_metrics, trainer.checkpoint_dir, "test")
    assert (trainer.checkpoint_dir / "test_large.png").stat().st_size > 1000


def test_a_trainer_declares_its_own_numbers(tmp_path):
    class Own(tiny.Trainer):
        def _train_epoch(self, epoch):
            return {**super()._train_epoch(epoch), "fid": 1 / epoch}

    config = settings(tmp_path, monitor="min fid")
    with pytest.raises(ConfigError) as caught:
        tiny.build(config, trainer_class=Own)
    assert caught.value.exit_code == 2
    assert str(caught.value).endswith(
        'if the trainer logs it, its class says so: log_names = ("fid",)'
    )
    assert not list(tmp_path.iterdir())
    Own.log_names = ("fid",)
    trainer = tiny.train(config, trainer_class=Own)
    assert trainer.monitor.best_epoch == 3
    Own.log_names = ("loss",)
    with pytest.raises(ConfigError, match="the name 'loss' is taken"):
        tiny.build(config, trainer_class=Own)


def collection():
    torchmetrics = pytest.importorskip("torchmetrics")
    kinds = torchmetrics.classification
    each = kinds.MulticlassAccuracy(3, average=None)
    parts = {
        "f1": kinds.MulticlassF1Score(3),
        "precision": kinds.MulticlassPrecision(3),
        "auroc": kinds.MulticlassAUROC(3),
        "each": torchmetrics.wrappers.ClasswiseWrapper(each, ["red", "blue", "green"], "acc_"),
    }
    return torchmetrics.MetricCollection(parts)


class Softmaxed:
    """Makes what torchmetrics wants of logits."""

    def update(self, output, target):
        super().update(output.softmax(1), target)


@pytest.fixture
def collected(monkeypatch):
    torchmetrics = pytest.importorskip("torchmetrics")

    class Collected(Softmaxed, torchmetrics.MetricCollection):
        def __init__(self):
            super().__init__(dict(collection().items()))

    Collected.__module__ = "tiny"
    Collected.__qualname__ = "Collected"
    monkeypatch.setattr(tiny, "Collected", Collected, raising=False)
    return {"type": "Collected", "name": "all"}


def test_a_collection_of_torchmetrics_is_what_its_parts_are(tmp_path, collected):
    trainer = tiny.train(settings(tmp_path, collected, monitor="max val_all/f1"))
    row = last_row(trainer)
    parts = collection()
    with torch.no_grad():
        for data, target in trainer.valid_data_loader.batches(0):
            parts.update(trainer.model.eval()(data).softmax(1), target)
    for name, value in parts.compute().items():
        assert float(row[f"val_all/{name}"]) == pytest.approx(float(value)), name
    assert "val_all/acc_blue" in row


def test_a_collection_resumes_inside_an_epoch(tmp_path, collected):
    whole = tiny.train(settings(tmp_path / "a", collected, "accuracy"))
    config = settings(tmp_path / "b", collected, "accuracy")
    path = interrupted(config, after=24)
    assert "step" in path.name
    assert tiny.rows(tiny.train(config, resume=path)) == tiny.rows(whole)


def counted(shares):
    tracker = MetricTracker(objects=[named(collection())])
    generator = torch.Generator().manual_seed(4)
    batches = []
    for n in (4, 3, 5):
        scores = torch.randn(n, 3, generator=generator).softmax(1)
        batches.append((scores, torch.arange(n) % 3))
    from machinery import distributed

    for number in shares[distributed.rank()]:
        tracker.update_objects(*batches[number])
    state = tracker.state_dict()
    again = MetricTracker(objects=[named(collection())])
    again.load_state_dict(state)
    return tracker.result(), tracker.result(), again.result(), state


def named(metric):
    metric.__name__ = "all"
    return metric


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shares", [([0, 1, 2], []), ([0, 1], [2]), ([], [0, 2], [1])])
def test_several_processes_count_what_one_does(tmp_path, shares):
    (alone, *_), *_ = ranks.run(tmp_path, 1, counted, [[0, 1, 2]])
    assert len(alone) == 6
    results = ranks.run(tmp_path, len(shares), counted, shares)
    for *each, _ in results:
        for other in each:
            assert other == pytest.approx(alone, rel=1e-6)
    one = MetricTracker(objects=[named(collection())])  # goes on from what several have counted
    one.load_state_dict(results[0][-1])
    assert one.result() == pytest.approx(alone, rel=1e-6)


def trained(folder, metric):
    tiny.Recall = Recall
    Recall.__module__ = "tiny"
    config = exact.settings(folder, metrics=[metric], trainer__monitor="max val_own/1")
    return exact.train(config)[1]


def test_own_objects_on_two_processes(tmp_path):
    metric = {"type": "Recall", "name": "own"}
    alone = ranks.run(tmp_path, 1, trained, tmp_path, metric)[0]
    for logs in ranks.run(tmp_path, 2, trained, tmp_path, metric):
        assert logs[-1] == pytest.approx(alone[-1])


def test_a_metric_that_fails_is_named(tmp_path, monkeypatch):
    def update(self, output, target):
        raise ValueError("seven classes")

    monkeypatch.setattr(Recall, "update", update)
    with pytest.raises(ValueError, match="seven classes") as caught:
        tiny.train(settings(tmp_path, recall("vector")))
    assert any("in the metric vector" in str(note) for note in caught.value.__notes__)


def test_counts_that_are_tensors_are_no_values_of_the_trainer_s(tmp_path, capfd):
    """A tensor and its clone are pickled otherwise."""
    pytest.importorskip("torchmetrics")
    kind = "torchmetrics.classification.MulticlassAccuracy"
    metric = {"type": kind, "args": {"num_classes": 3}, "name": "theirs"}
    changes = {"trainer__save_step": 3, "trainer__epochs": 2}
    tiny.train(settings(tmp_path, metric, **changes))
    assert "before its first batch" not in capfd.readouterr().out


def test_a_long_name_of_a_class_is_cut():
    assert names_of_classes(["a" * 5000, "b c"], 2) == ["a" * 100, "b_c"]
    # Two that are alike up to there have their numbers.
    assert names_of_classes(["a" * 5000, "a" * 5001], 2) == ["0", "1"]


@pytest.mark.parametrize(
    "kind, arguments",
    [
        ("torchmetrics.classification.MulticlassAccuracy", {"average": "micro"}),
        ("torchmetrics.classification.MulticlassF1Score", {}),
        ("torchmetrics.Accuracy", {"task": "multiclass"}),
        ("torchmetrics.functional.accuracy", {"task": "multiclass"}),
        ("torchmetrics.functional.classification.multiclass_f1_score", {}),
    ],
)
def test_shares_of_classes_are_the_largest_for_torchmetrics(tmp_path, kind, arguments):
    pytest.importorskip("torchmetrics")
    metric = {"type": kind, "args": {"num_classes": 3, **arguments}, "name": "m"}
    trainer = tiny.as_train_py(tiny.settings(tmp_path, metrics=[metric]))
    output = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.1, 0.7], [0.9, 0.1, 0.0]])
    target = torch.tensor([1, 2, 2, 1])
    found = []
    for each in (target, torch.eye(3)[target] * 0.7 + 0.1):
        tracker = trainer._tracker()
        for function in trainer._functions:
            tracker.update("m", function(output, each))
        tracker.update_objects(output, each)
        found.append(tracker.result())
    assert found[0] == found[1] and 0 < found[0]["m"] < 1
