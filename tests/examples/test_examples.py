"""Each example trains as it stands, is stopped and continued exactly, and is tested; on several
processes, too."""

import argparse
import csv
import io
import json
import os
import re
import sys
import tarfile
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import torch.utils.tensorboard
import torchvision.datasets  # for all that is forked
from torchvision.models.resnet import BasicBlock, ResNet

import bare_examples
import forked
import ranks
from data_loader.data_loaders import DigitsDataLoader
from machinery import distributed
from machinery.checkpoints import file as checkpoint, run_folder
from machinery.files import read_json
from projects import ROOT
from scripts import run, script

NAMES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/config.json"))
#: What makes them short.
LESS = {
    "autoencoder": {"data_loader.args.validation_split": 0.5},
    "backbone_classifier": {"data_loader.args.validation_split": 0.5},
    "char_lm": {
        "arch.args.width": 16,
        "trainer.len_epoch": 11,
        "data_loader.args.batch_size": 10,
        "trainer.precision": "bf16",
    },
    "contrastive": {"data_loader.args.validation_split": 0.5, "data_loader.args.batch_size": 50},
    "distillation": {"data_loader.args.validation_split": 0.5, "trainer.teacher_epochs": 1},
    "finetune": {
        "data_loader.args.size": 32,
        "trainer.len_epoch": 5,
        "data_loader.args.batch_size": 5,
    },
    "gan": {"data_loader.args.validation_split": 0.5},
    "lbfgs": {"data_loader.args.batch_size": 100},
    "segmentation": {"data_loader.args.n": 101},
    "stream": {"data_loader.args.steps": 12, "valid_data_loader.args.samples": 130},
    "tabular": {"data_loader.args.batch_size": 500},
}


#: What the config as it stands reaches: the best value of the number that it watches.
REACHES = {
    "autoencoder": ("<", 0.02),
    "backbone_classifier": (">", 0.7),
    "char_lm": ("<", 2.22),  # the entropy of a character after another, of this text
    "contrastive": (">", 0.8),
    "distillation": (">", 0.88),
    "finetune": ("<", 0.6),
    "lbfgs": ("<", 0.38),  # where the bare loop below gets
    "segmentation": (">", 0.9),
    "stream": (">", 0.99),
    "tabular": ("<", 55.0),  # the noise alone is 48
}


def places(name, folder):
    """The settings that put an example's data and runs in a folder."""
    found = {"trainer.save_dir": folder, "n_gpu": 0}
    found |= {"data_loader.args.data_dir": folder / "drawn_shapes"} if name == "finetune" else {}
    found |= {"arch.starting_args.weights": "null"} if name == "finetune" else {}
    return found | ({"data_loader.args.file": folder / "rents.csv"} if name == "tabular" else {})


def options(name, folder, **more):
    """The command line that makes an example short, with its data and its runs in a folder."""
    settings = {**places(name, folder), **LESS[name], **more}
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def outcome(folder):
    """The newest checkpoint, and the rows of metrics.csv without what the clock says."""
    content = checkpoint.load(run_folder.newest_whole(folder)[0])
    with open(str(folder).replace("/models/", "/log/") + "/metrics.csv", newline="") as file:
        rows = [
            {key: row[key] for key in row if key not in ("seconds", "samples/s")}
            for row in csv.DictReader(file)
        ]
    weights = {key: value.numpy().tobytes() for key, value in content["state_dict"].items()}
    return weights, repr(content["states"]), repr(content["optimizer"]), rows


def test_each_has_a_line_of_length_and_nobody_is_left_out():
    assert set(NAMES) <= set(LESS) == {*REACHES, "gan"}  # a project may have kept some of them
    table = (ROOT / "docs" / "examples.md").read_text()
    assert re.findall(r"^\| \[(\w+)\]\(\.\./examples/(\w+)\)", table, re.M) == [
        (name, name) for name in sorted(LESS)
    ]


def _bare(name, words, file):
    """The figures of the bare script, from the same first weights."""
    os.chdir(ROOT)
    sys.argv = ["train.py", *map(str, words)]
    from parse_config import ConfigParser
    from train import OPTIONS, build

    trainer = build(ConfigParser.from_args(argparse.ArgumentParser(), OPTIONS))
    found, weights = bare_examples.figures(name, trainer, 2)
    file.write_text(json.dumps(found))
    torch.save(weights, file.with_suffix(".pth"))


class Thin(ResNet):
    """A ResNet18 with an eighth of the channels; its layers are called the same."""

    def __init__(self, num_classes):
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.fc = torch.nn.Linear(64, num_classes)

    def _make_layer(self, block, planes, *args, **options):
        return super()._make_layer(block, planes // 8, *args, **options)


@pytest.fixture
def small(monkeypatch):
    """An eighth of the digits, and of a ResNet18, for all that is forked."""
    get_model, read = torchvision.models.get_model, DigitsDataLoader.read

    def get(name, num_classes):
        if name == "resnet18":
            return Thin(num_classes)
        return get_model(name, num_classes=num_classes)

    def read_some(self, folder, training):
        return [part[::8] for part in read(self, folder, training)]

    monkeypatch.setattr(torchvision.models, "get_model", get)
    monkeypatch.setattr(DigitsDataLoader, "read", read_some)


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_is_continued_exactly_and_tested(name, tmp_path, small):
    config = f"examples/{name}/config.json"
    checked = run(tmp_path, "train.py", "-c", config, "--check", *options(name, tmp_path))
    assert "check passed" in checked and not (tmp_path / "models").exists()
    words = ["-c", config, *options(name, tmp_path, **{"trainer.epochs": 2})]
    run(tmp_path, "train.py", *words, "--run_id", "whole")
    (models,) = (tmp_path / "models").iterdir()
    run(tmp_path, "train.py", *words, "--run_id", "part", code=143, stop_at=2)
    assert any("epoch2-step" in path.name for path in (models / "part").iterdir()), [
        *(models / "part").iterdir()
    ]
    run(tmp_path, "train.py", "-r", models / "part")
    *_, rows = whole = outcome(models / "whole")
    assert outcome(models / "part") == whole
    assert (
        forked.finish(
            forked.start(_bare, name, [*words, "--run_id", "bare"], tmp_path / "bare.json")
        )
        == 0
    )
    for figure, value in read_json(tmp_path / "bare.json").items():
        assert float(rows[-1][figure]) == pytest.approx(value, rel=1e-5), figure
    trained = checkpoint.load(run_folder.newest_whole(models / "whole")[0])["state_dict"]
    for key, value in torch.load(tmp_path / "bare.pth", weights_only=True).items():
        if key not in ("mean", "std", "target"):  # which tabular's bare script computes aside
            atol = 5e-3 if name == "char_lm" else 1e-4  # in bf16
            torch.testing.assert_close(trained[key], value, rtol=1e-3, atol=atol)
    run(tmp_path, "test.py", "-r", models / "part")
    (result, *_) = read_json(models / "part" / "test.json")["results"]
    assert result["samples"] > 0 and all(
        map(torch.isfinite, map(torch.tensor, result["metrics"].values()))
    )


def _rank(words):
    del os.environ["CUDA_VISIBLE_DEVICES"]
    distributed.world.launched = True
    script("train.py", words, 0)


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("gan", "segmentation", "stream", "tabular")
        else pytest.param(name, marks=pytest.mark.soak)
        for name in NAMES
        if name != "distillation"  # which wants a teacher
    ],
)
def test_two_processes_train_it(name, tmp_path, monkeypatch):
    """What differs between them at a save is an error."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = ["-c", f"examples/{name}/config.json", "--run_id", "both"]
    words += options(
        name, tmp_path, **{"trainer.epochs": 1, "trainer.len_epoch": 4, "trainer.accumulate": 1}
    )
    codes, outputs = ranks.finish(*ranks.start(tmp_path, 2, _rank, words))
    assert codes == [0, 0], outputs
    (models,) = (tmp_path / "models").iterdir()
    assert (
        checkpoint.load(run_folder.newest_whole(models / "both")[0])["environment"]["processes"]
        == 2
    )


def test_a_text_goes_on(tmp_path):
    run(
        tmp_path,
        "train.py",
        "-c",
        "examples/char_lm/config.json",
        "--run_id",
        "a",
        *options("char_lm", tmp_path, **{"trainer.epochs": 1}),
    )
    folder = tmp_path / "models" / "Char_GPT" / "a"
    words = ["examples/char_lm/generate.py", "-r", folder, "--prompt", "And he", "--length", "100"]
    text = run(tmp_path, *words).rstrip("\n")
    assert "And he" in text and text == run(tmp_path, *words).rstrip("\n") != run(
        tmp_path, *words, "--seed", "1"
    )
    for wrong in (["--prompt", ""], ["--temperature", "0"]):
        assert "expected" in run(tmp_path, *words, *wrong, code=2)


def test_cross_validation_is_a_table_of_folds(tmp_path):
    config = json.loads((ROOT / "examples" / "tabular" / "config.json").read_text())
    config["data_loader"]["args"] |= {
        "folds": 3,
        "batch_size": 500,
        "file": str(tmp_path / "rents.csv"),
    }
    config["trainer"] |= {"epochs": 2, "tensorboard": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    printed = run(
        tmp_path,
        "examples/tabular/folds.py",
        "-c",
        tmp_path / "config.json",
        "--save_dir",
        tmp_path,
    )
    lines = printed.splitlines()[-5:]
    assert lines[0].split() == ["fold"] and [line.split()[0] for line in lines[1:4]] == [
        "0",
        "1",
        "2",
    ]
    values = [float(line.split()[3]) for line in lines[1:4]]
    mean, spread = map(float, re.findall(r"val_mae: (\S+) ± (\S+) ", lines[4])[0])
    assert mean == pytest.approx(sum(values) / 3, abs=1e-3)
    assert spread == pytest.approx(float(pd.Series(values).std()), abs=1e-3)
    folders = sorted((tmp_path / "models" / "Rents_MLP").iterdir())
    held_out = [
        read_json(folder / "config.json")["data_loader"]["args"]["fold"] for folder in folders
    ]
    assert held_out == [0, 1, 2]


COLUMNS = ["area", "rooms", "year", "floor", "quarter_centre", "quarter_north", "quarter_river"]


def test_columns_go_by_their_names(tmp_path):
    from examples.tabular.data import TableLoader, make_rents
    from machinery.errors import ConfigError, DataError

    make_rents(tmp_path / "rents.csv", 50)
    table = pd.read_csv(tmp_path / "rents.csv")
    turned = table[table.columns[::-1]].assign(note=["new"] * 49 + [None])
    turned.to_csv(tmp_path / "turned.csv", index=False)
    first, second = (
        TableLoader(str(tmp_path / f"{name}.csv"), "rent", COLUMNS) for name in ("rents", "turned")
    )
    assert torch.equal(first.x.nan_to_num(-1), second.x.nan_to_num(-1)) and torch.equal(
        first.y, second.y
    )
    with pytest.raises(
        ConfigError, match=r"has no numbers hight, rent; there are: area, .* quarter \(text\), rent"
    ):
        TableLoader(str(tmp_path / "rents.csv"), "rent", [*COLUMNS, "hight"])
    with pytest.raises(ConfigError, match="has no numbers quarter, rent"):  # it would be 0 in all
        TableLoader(str(tmp_path / "rents.csv"), "rent", [*COLUMNS, "quarter"])
    with pytest.raises(DataError, match=r"tpyo\.csv cannot be read"):
        TableLoader(str(tmp_path / "tpyo.csv"), "rent", COLUMNS)
    table.assign(rent=table.rent.where(table.index != 7)).to_csv(
        tmp_path / "rents.csv", index=False
    )
    with pytest.raises(DataError, match="rent is missing or infinite in row 7"):
        TableLoader(str(tmp_path / "rents.csv"), "rent", COLUMNS)


def test_the_normalisation_knows_the_training_rows_alone(tmp_path):
    from examples.tabular.data import TableLoader
    from examples.tabular.model import MLP

    loaders = [
        TableLoader(str(tmp_path / "rents.csv"), "rent", COLUMNS, folds=4, fold=fold)
        for fold in range(4)
    ]
    table = pd.read_csv(tmp_path / "rents.csv")
    tested = TableLoader(str(tmp_path / "rents.csv"), "rent", COLUMNS, training=False)
    rows = [len(loader.dataset) + len(loader.split_validation().dataset) for loader in loaders]
    assert rows == [len(table) - len(tested.dataset)] * 4
    model = MLP(loaders[0].x.shape[1])
    model.fit(loaders[0].x, loaders[0].y)
    assert torch.allclose(model.mean, torch.nanmean(loaders[0].x, dim=0), rtol=1e-5)
    assert not torch.allclose(model.mean, torch.nanmean(loaders[1].x, dim=0), rtol=1e-5)
    assert model(loaders[0].x).isfinite().all() and loaders[0].x.isnan().any()


def test_weights_of_a_file_fit_all_but_the_head(tmp_path):
    from examples.backbone_classifier.model import Backbone
    from machinery.errors import CheckpointError, ConfigError

    source, files = (
        Backbone("squeezenet1_1", 5),
        [tmp_path / "weights.pth", tmp_path / "checkpoint.pth"],
    )
    torch.save(source.net.state_dict(), files[0])
    torch.save({"state_dict": source.state_dict()}, files[1])
    for file in files:
        with pytest.raises(ConfigError, match="the weights are of another network"):
            Backbone("squeezenet1_0", 5, str(file))
        target = Backbone("squeezenet1_1", 5, str(file))
        state = target.state_dict()
        differing = [
            name
            for name, value in source.state_dict().items()
            if not torch.equal(value, state[name])
        ]
        assert differing == ["net.classifier.1.weight"]  # its bias begins at 0
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"text\.pth cannot be read"):
        Backbone("squeezenet1_1", 5, str(tmp_path / "text.pth"))


def last(tmp_path, name, *words):
    """The state_dict and the folder of a short run of an example."""
    run(tmp_path, "train.py", "-c", f"examples/{name}/config.json", "--run_id", "a", *words)
    (models,) = (tmp_path / "models").iterdir()
    return checkpoint.load(run_folder.newest_whole(models / "a")[0])["state_dict"], models / "a"


def test_what_is_frozen_stays_as_it_is(tmp_path, small):
    state, _ = last(tmp_path, "finetune", *options("finetune", tmp_path, **{"trainer.epochs": 1}))
    assert (
        not state["net.bn1.running_mean"].any() and not state["net.layer3.1.bn2.running_mean"].any()
    )
    assert state["net.layer4.1.bn2.running_mean"].any()


def test_a_stream_is_the_same_for_any_number_of_workers(tmp_path):
    _, folder = last(tmp_path, "stream", *options("stream", tmp_path, **{"trainer.epochs": 1}))
    results = []
    for workers in (0, 1, 2):
        words = ["--split", "valid", "--set", f"valid_data_loader.args.num_workers={workers}"]
        run(tmp_path, "test.py", "-r", folder, *words)
        results.append(read_json(folder / "test.json")["results"][-1])
    values = [[result["samples"], *result["metrics"].values()] for result in results]
    assert values[1] == pytest.approx(values[0], rel=1e-6) and values[2] == pytest.approx(
        values[0], rel=1e-6
    )


def test_a_stream_drops_its_last_batch_in_training_alone():
    from examples.stream.data import SpiralsLoader

    loader = SpiralsLoader(samples=20, batch_size=8, drop_last=True)
    sizes = [[len(batch[1]) for batch in loader.batches(epoch)] for epoch in (1, 0, 1)]
    assert sizes == [[8, 8], [8, 8, 4], [8, 8]]


def _noting(kind, method, log):
    """Let a class write into a log what its method is called with, from whichever worker."""
    original = getattr(kind, method)

    def noting(self, value):
        with open(log, "a") as file:
            file.write(f"{value}\n")
        return original(self, value)

    setattr(kind, method, noting)


def _reading(words, stop_at, log):
    """Train, and note which points are drawn."""
    from examples.stream.data import Spirals

    _noting(Spirals, "_point", log)
    script("train.py", words, stop_at)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_that_says_where_it_stands_is_not_read_again(tmp_path, workers):
    words = ["-c", "examples/stream/config.json", "--run_id", "whole"]
    words += options("stream", tmp_path, **{"trainer.epochs": 2})
    words += ["--set", f"data_loader.args.num_workers={workers}"]
    models = tmp_path / "models" / "Spirals_Stream"
    log = tmp_path / "points"
    assert forked.finish(forked.start(_reading, words, 0, log)) == 0
    words[3] = "part"
    assert forked.finish(forked.start(_reading, words, 7, log)) == 143
    log.unlink()
    assert forked.finish(forked.start(_reading, ["-r", models / "part"], 0, log)) == 0
    assert outcome(models / "part")[0] == outcome(models / "whole")[0]
    drawn = len(log.read_text().splitlines())
    # 12 batches of 64 are an epoch, of which 7 were done; 130 points are for validation.
    ahead = 64 * 2 * workers  # which a worker may have fetched beyond the epoch's end
    assert 130 + 64 * 6 <= drawn <= 130 + 64 * 6 + ahead  # the last batch is read again


def _write_shards(folder, lengths):
    """Tar files of points, each with so many."""
    folder.mkdir()
    for number, length in enumerate(lengths):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for i in range(length):
                point = np.random.default_rng((number, i)).normal(size=2)
                array = io.BytesIO()
                np.save(array, point)
                label = str(int(point.sum() > 0)).encode()
                for kind, content in (("npy", array.getvalue()), ("cls", label)):
                    member = tarfile.TarInfo(f"{number:03d}{i:03d}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def _over_shards(words, stop_at, log):
    """Train, and note which samples are decoded."""
    from examples.stream.shards import Shards

    _noting(Shards, "_sample", log)
    script("train.py", words, stop_at)


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 0), (2, 1)])
def test_shards_are_gone_on_with_in_the_middle(tmp_path, processes, workers):
    _write_shards(tmp_path / "shards", [9, 4, 17, 8, 12, 21, 6, 15])
    args = {"shards": str(tmp_path / "shards" / "*.tar"), "steps": 6, "batch_size": 5}
    args.update(noise=0.1, num_workers=workers)
    config = read_json(ROOT / "examples" / "stream" / "config.json")
    config["data_loader"] = {"type": "examples.stream.shards.ShardsLoader", "args": args}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = ["-c", tmp_path / "config.json", "--run_id", "whole"]
    for key, value in {"trainer.save_dir": tmp_path, "trainer.epochs": 2, "n_gpu": 0}.items():
        words += ["--set", f"{key}={value}"]
    words += ["--set", "valid_data_loader.args.samples=130"]
    models = tmp_path / "models" / "Spirals_Stream"
    log = tmp_path / "samples"
    _together(tmp_path, processes, words, 0, log, 0)
    words[3] = "part"
    _together(tmp_path, processes, words, 2, log, 143)
    log.unlink()
    again = ["-r", models / "part", "--set", f"data_loader.args.shards={args['shards']}"]
    _together(tmp_path, processes, again, 0, log, 0)
    assert outcome(models / "part") == outcome(models / "whole")
    decoded = len(log.read_text().splitlines())
    ahead = 5 * 2 * workers
    assert 0 < decoded <= processes * (5 * (4 + max(workers, 1)) + ahead)


def _together(folder, processes, words, stop_at, log, code):
    """Train on shards on so many processes."""
    started = ranks.start(folder, processes, _over_shards, words, stop_at, log)
    codes, outputs = ranks.finish(*started)
    assert codes == [code] * processes, "\n".join(outputs)


def test_a_gan_accumulates_and_skips(tmp_path):
    whole = {
        "data_loader.args.validation_split": 0.9,
        "data_loader.args.batch_size": 400,
        "arch.args.width": 4,
    }
    steps = {**whole, "trainer.epochs": 2, "trainer.on_nan": "skip", "trainer.accumulate": 1}
    steps["lr_scheduler"] = (
        '{"type": "StepLR", "args": {"step_size": 1, "gamma": 0.5}, "interval": "step"}'
    )
    _, folder = last(tmp_path, "gan", *options("gan", tmp_path, **steps))
    assert (
        checkpoint.load(run_folder.newest_whole(folder)[0])["states"]["lr_scheduler"]["last_epoch"]
        == 2
    )


def _cells(config):
    """Run the notebook's code as Jupyter would, in the folder where it stands, with another
    config."""
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # an older matplotlib has some with newer packages
    import matplotlib

    matplotlib.use("Agg")
    os.chdir(ROOT / "examples")
    cells = json.loads((ROOT / "examples" / "playground.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert code.count('"config.json"') == 1
    names = {"__name__": "__main__"}
    exec(compile(code.replace('"config.json"', repr(str(config))), "playground", "exec"), names)
    assert len(names["losses"]) > 3 and names["wrong"] and len(names["plt"].get_fignums()) == 3


def test_the_notebook_runs(tmp_path):
    config = json.loads((ROOT / "config.json").read_text())
    config["n_gpu"], config["trainer"]["save_dir"], config["trainer"]["log_step"] = (
        0,
        str(tmp_path),
        5,
    )
    config["data_loader"]["args"]["validation_split"] = 0.7
    (tmp_path / "config.json").write_text(json.dumps(config))
    output = tmp_path / "output.txt"
    assert forked.finish(forked.start(_cells, tmp_path / "config.json", output=output)) == 0, (
        output.read_text()
    )
    assert re.search(r"^\d+ of 2800 are wrong$", output.read_text(), re.M)


@pytest.mark.soak
@pytest.mark.parametrize("name", [name for name in REACHES if name in NAMES])
def test_it_reaches_what_it_should(name, tmp_path):
    words = [
        word
        for key, value in places(name, tmp_path).items()
        for word in ("--set", f"{key}={value}")
    ]
    run(tmp_path, "train.py", "-c", f"examples/{name}/config.json", "--run_id", "a", *words)
    (models,) = (tmp_path / "models").iterdir()
    best = checkpoint.load(models / "a" / "model_best.pth")["monitor_best"]
    sign, value = REACHES[name]
    assert best < value if sign == "<" else best > value, best
