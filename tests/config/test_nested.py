"""Datasets, transforms, collate functions and samplers that a config names inside the arguments of
a loader: as written by hand, checked before anything is built."""

import json
import pickle
import re
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch.utils.data import Dataset, RandomSampler, Sampler
from torchvision.datasets import FakeData
from torchvision.transforms import InterpolationMode, v2

import test as test_script
import tiny
from base import BaseDataLoader
from data_loader import data_loaders
from data_loader.data_loaders import DatasetLoader
from machinery.errors import ConfigError, DataError
from projects import ROOT
from utils import DatasetMaker

V2 = "torchvision.transforms.v2"
SCALED = [
    {"type": f"{V2}.ToImage"},
    {"type": f"{V2}.ToDtype", "args": {"dtype": "float32", "scale": True}},
]


def composed(*transforms):
    return {"type": f"{V2}.Compose", "args": {"transforms": [*transforms]}}


AUGMENTED = composed({"type": f"{V2}.RandomCrop", "args": {"size": 8}}, *SCALED)
CENTRE = {"type": f"{V2}.CenterCrop", "args": {"size": [8, 8]}}
FAKE = {
    "type": "torchvision.datasets.FakeData",
    "args": {"size": 23, "image_size": [3, 12, 12], "num_classes": 3, "transform": AUGMENTED},
    "evaluation_args": {"transform": composed(CENTRE, *SCALED)},
    "test_args": {"size": 9, "random_offset": 100},
}


def loader_of(args, module=data_loaders, kind="DatasetLoader", section="data_loader"):
    config = tiny.ConfigParser(tiny.settings("unused", **{section: {"type": kind, "args": args}}))
    return config.init_obj(section, module)


def problems_of(args, module=data_loaders, kind="DatasetLoader"):
    config = tiny.settings("unused", data_loader={"type": kind, "args": args})
    with pytest.raises(ConfigError) as caught:
        tiny.ConfigParser(config).check(data_loader=module)
    return str(caught.value)


def by_hand(size, transform, offset=0):
    transforms = v2.Compose([*transform, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    return FakeData(size, (3, 12, 12), 3, transforms, random_offset=offset)


def same(first, second):
    pairs = list(zip(first, second, strict=True))
    return bool(pairs) and all(
        torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True)
    )


def test_a_loader_by_config_alone_is_that_by_hand():
    made = loader_of({"dataset": FAKE, "batch_size": 5, "validation_split": 6})
    with tiny_seed(made):
        train = BaseDataLoader(by_hand(23, [v2.RandomCrop(8)]), 5, True, 6, 0)
    assert same(made, train)
    held_out = made.valid_sampler.indices
    plain = by_hand(23, [v2.CenterCrop(8)])
    seen = torch.cat([x for x, _ in made.split_validation()])
    assert torch.equal(seen, torch.stack([plain[i][0] for i in held_out]))


class tiny_seed:
    """The root seed of a loader."""

    def __init__(self, loader):
        self.seed = loader.seed

    def __enter__(self):
        from machinery.order import seeding

        seeding.set_root_seed(self.seed)

    def __exit__(self, *_):
        pass


def test_the_test_data_have_their_own_arguments():
    args = {"dataset": FAKE, "batch_size": 5, "validation_split": 6}
    settings = tiny.settings("unused", data_loader={"type": "DatasetLoader", "args": args})
    loader = test_script.test_loader(tiny.ConfigParser(settings), data_loaders)
    plain = by_hand(9, [v2.CenterCrop(8)], offset=100)
    seen = torch.cat([x for x, _ in loader])
    assert torch.equal(seen, torch.stack([plain[i][0] for i in range(9)]))


def test_without_test_args_nothing_is_tested_and_the_suggestion_helps():
    train = {key: FAKE[key] for key in ("type", "args")}
    settings = tiny.settings(
        "unused", data_loader={"type": "DatasetLoader", "args": {"dataset": train}}
    )
    with pytest.raises(ConfigError, match="is the training data alone") as caught:
        test_script.test_loader(tiny.ConfigParser(settings), data_loaders)
    assert '"test_args": {"train": false}' in str(caught.value)
    settings["data_loader"]["args"]["dataset"]["test_args"] = {}
    assert len(test_script.test_loader(tiny.ConfigParser(settings), data_loaders).dataset) == 23


def test_the_test_data_are_read_without_the_sampler_of_the_training_data():
    sampler = {"type": "torch.utils.data.RandomSampler", "args": {"num_samples": 40}}
    args = {
        "dataset": FAKE,
        "sampler": {**sampler, "args": {**sampler["args"], "replacement": True}},
    }
    settings = tiny.settings("unused", data_loader={"type": "DatasetLoader", "args": args})
    config = tiny.ConfigParser(settings)
    assert config.init_obj("data_loader", data_loaders).n_samples == 40
    loader = test_script.test_loader(config, data_loaders)
    plain = by_hand(9, [v2.CenterCrop(8)], offset=100)
    seen = torch.cat([x for x, _ in loader])
    assert torch.equal(seen, torch.stack([plain[i][0] for i in range(9)]))


def test_several_validation_sets_name_their_data():
    sets = {
        name: {
            "type": "DatasetLoader",
            "args": {"dataset": {**FAKE, "args": {**FAKE["args"], "size": n}}},
        }
        for name, n in (("day", 5), ("night", 7))
    }
    settings = tiny.settings("unused", valid_data_loader=sets)
    config = tiny.ConfigParser(settings)
    config.check(valid_data_loader=data_loaders)
    made = config.init_obj("valid_data_loader", data_loaders)
    assert {name: loader.n_samples for name, loader in made.items()} == {"day": 5, "night": 7}
    sets["night"]["args"]["dataset"]["args"]["siz"] = 3
    with pytest.raises(
        ConfigError, match=r"valid_data_loader\.night\.args\.dataset\.args\.siz: Fake"
    ):
        tiny.ConfigParser(settings).check(valid_data_loader=data_loaders)


def test_evaluation_args_may_not_change_the_samples():
    made = loader_of({"dataset": {**FAKE, "evaluation_args": {"size": 22}}, "validation_split": 6})
    with pytest.raises(ConfigError, match="evaluation_args makes 22 samples of 23"):
        made.split_validation()


def written(folder, names, n):
    """Files as those of CIFAR-10."""
    rng = np.random.default_rng(len(names))
    for name in names:
        images = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        labels = rng.integers(0, 10, n).tolist()
        (folder / name).write_bytes(pickle.dumps({"data": images, "labels": labels}))


@pytest.mark.parametrize("kind", ["DatasetLoader", "ImageLoader"])
def test_the_page_shows_cifar(tmp_path, monkeypatch, kind):
    page = (ROOT / "docs" / "config.md").read_text()
    (text,) = re.findall(rf'```json\n("data_loader": \{{\n    "type": "{kind}".*?)```', page, re.S)
    section = json.loads("{" + text + "}")["data_loader"]
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    written(folder, [f"data_batch_{i}" for i in range(1, 6)], 11)
    written(folder, ["test_batch"], 7)
    names = {"label_names": [str(i) for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    cifar = torchvision.datasets.cifar
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: True)
    monkeypatch.setattr("machinery.files.ROOT", tmp_path)
    monkeypatch.chdir("/")
    config = tiny.ConfigParser(tiny.settings("unused", data_loader=section))
    config.check(data_loader=data_loaders)
    loader = config.init_obj("data_loader", data_loaders)
    assert (loader.batch_size, loader.n_samples) == (128, 50)
    assert next(iter(loader))[0].shape == (50, 3, 32, 32)
    # Augmented in training, and as they are in validation.
    data = loader.dataset
    if kind == "DatasetLoader":
        rows = torch.from_numpy(data.data).permute(0, 3, 1, 2) / 255
    else:
        given = section["args"]
        mean, std = (torch.tensor(given[name])[:, None, None] for name in ("mean", "std"))
        rows = (data.images / 255 - mean) / std
        data = loader._source
    (x, _), *_ = loader.split_validation()
    torch.testing.assert_close(x, rows[loader.valid_sampler.indices])
    assert data.train is True
    tested = test_script.test_loader(config, data_loaders)
    assert len(tested.dataset) == 7
    assert getattr(tested, "_source", tested.dataset).train is False


def test_a_dataset_that_is_not_there_is_told_with_what_fetches_it(tmp_path, monkeypatch):
    dataset = {"type": "torchvision.datasets.MNIST", "args": {"root": str(tmp_path)}}
    with pytest.raises(DataError, match="it is not there, or not whole: --set ") as caught:
        loader_of({"dataset": dataset})
    (key,) = re.findall(r"--set (\S+)=true fetches it", str(caught.value))
    assert key == "data_loader.args.dataset.args.download"
    asked = []
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda self: asked.append(self))
    monkeypatch.setattr(torchvision.datasets.MNIST, "_check_exists", lambda self: bool(asked))
    monkeypatch.setattr(torchvision.datasets.MNIST, "_load_data", lambda self: ([1, 2], [0, 1]))
    args = {"dataset": {**dataset, "args": {**dataset["args"], "download": True}}}
    assert loader_of(args).n_samples == 2 and len(asked) == 1


class Names(Dataset):
    """Of a project: a dataset that takes a transform, without annotations."""

    def __init__(self, n, transform=None, label_of=None, table=None):
        self.n, self.transform, self.label_of, self.table = n, transform, label_of, table

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        x = torch.full((2,), float(i))
        return (x if self.transform is None else self.transform(x)), i % 3


def doubled(x):
    return 2 * x


def times(x, factor):
    return factor * x


def tripled(factor=3) -> Callable[..., Any]:
    return partial(times, factor=factor)


halved = v2.Lambda(lambda x: x / 2)


def called_at_once(file="x"):
    raise AssertionError("it is no transform")


def reversed_batch(samples, value=0):
    x = torch.stack([x for x, _ in samples]).flip(0)
    return x + value, torch.tensor([y for _, y in samples])


class EveryOther(Sampler):
    def __init__(self, data_source, start=0):
        self.data_source, self.start = data_source, start

    def __len__(self):
        return len(range(self.start, len(self.data_source), 2))

    def __iter__(self):
        return iter(range(self.start, len(self.data_source), 2))


class Drawn(Dataset):
    """Draws its samples as it is made."""

    def __init__(self, n, factor=1.0):
        self.x = factor * torch.randn(n, 2)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], 0


class Old(BaseDataLoader):
    """Says nothing of what it takes."""

    def __init__(self, n, collate_fn=None):
        super().__init__(Names(n), 4, False, 0.0, 0, collate_fn)


class New(BaseDataLoader):
    def __init__(self, n, collate_fn: Callable[..., Any]):
        super().__init__(Names(n), 4, False, 0.0, 0, collate_fn)


class Annotated(BaseDataLoader):
    def __init__(self, dataset: Dataset, **options: Any):
        super().__init__(dataset, **options)


class Reads(BaseDataLoader):
    """Reads a config itself, as projects did."""

    def __init__(self, dataset, transform=None, batch_size=4):
        self.given = dataset, transform
        super().__init__(Names(dataset["args"]["n"]), batch_size, False, 0.0, 0)


HERE = types.ModuleType("data_loader.of_a_test")
for _value in (
    Names,
    doubled,
    times,
    tripled,
    called_at_once,
    reversed_batch,
    EveryOther,
    Annotated,
    Reads,
    Drawn,
    Old,
    New,
):
    _value.__module__ = HERE.__name__
    setattr(HERE, _value.__name__, _value)
HERE.halved = halved
HERE.DatasetLoader = DatasetLoader

#: A transform of the project's own, and what it makes of 1.
TRANSFORMS = [
    ({"type": "doubled"}, 2),
    ({"type": "times", "args": {"factor": 5}}, 5),
    ({"type": "tripled"}, 3),
    ({"type": "tripled", "args": {"factor": 4}}, 4),
    ({"type": "halved"}, 0.5),
    ({"type": f"{V2}.Lambda", "args": {"lambd": {"type": "doubled"}}}, 2),
    (composed({"type": "doubled"}, {"type": "halved"}, {"type": "doubled"}), 2),
]


@pytest.mark.parametrize("transform, factor", TRANSFORMS)
@pytest.mark.parametrize("kind", ["DatasetLoader", "Annotated"])
def test_parts_of_the_projects_own(kind, transform, factor):
    dataset = {"type": "Names", "args": {"n": 5, "transform": transform}}
    loader = loader_of({"dataset": dataset, "batch_size": 3, "shuffle": False}, HERE, kind)
    x = torch.cat([x for x, _ in loader])
    assert x[:, 0].tolist() == [factor * i for i in range(5)]


@pytest.mark.parametrize(
    "collate_fn, first",
    [
        ("reversed_batch", 2),
        ({"type": "reversed_batch", "args": {"value": 10}}, 12),
        (None, 0),
    ],
)
def test_a_collate_function_by_its_name(collate_fn, first):
    args = {"dataset": {"type": "Names", "args": {"n": 3}}, "shuffle": False}
    if collate_fn is not None:
        args["collate_fn"] = collate_fn
    ((x, _),) = loader_of(args, HERE)
    assert x[0, 0] == first


def test_a_name_that_nobody_takes_is_told_and_the_annotation_helps():
    with pytest.raises(ConfigError, match="found 'reversed_batch'; a loader of your own takes"):
        loader_of({"n": 3, "collate_fn": "reversed_batch"}, HERE, "Old")
    ((x, _),) = loader_of({"n": 3, "collate_fn": "reversed_batch"}, HERE, "New")
    assert x[0, 0] == 2


def test_what_a_dataset_draws_as_it_is_made_is_the_same_for_validation():
    dataset = {"type": "Drawn", "args": {"n": 9}, "evaluation_args": {"factor": 2.0}}
    loader = loader_of({"dataset": dataset, "validation_split": 4}, HERE)
    torch.rand(3)  # whatever came between
    ((x, _),) = loader.split_validation()
    assert torch.equal(x, 2 * loader.dataset.x[loader.valid_sampler.indices])
    again = loader_of({"dataset": dataset, "validation_split": 4}, HERE)
    assert torch.equal(again.dataset.x, loader.dataset.x)


@pytest.mark.parametrize("kind", ["DatasetLoader", "Annotated"])
def test_a_sampler_gets_the_dataset(kind):
    dataset = {"type": "Names", "args": {"n": 7}}
    sampler = {"type": "EveryOther", "args": {"start": 1}}
    args = {"dataset": dataset, "sampler": sampler, "shuffle": False, "batch_size": 9}
    loader = loader_of(args, HERE, kind)
    assert next(iter(loader))[0][:, 0].tolist() == [1, 3, 5]
    sampler = {"type": "torch.utils.data.RandomSampler", "args": {"num_samples": 50}}
    sampler["args"]["replacement"] = True
    loader = loader_of({**args, "sampler": sampler}, HERE, kind)
    assert isinstance(loader.sampler, RandomSampler) and loader.n_samples == 50


def test_datasets_of_datasets():
    parts = [{"type": "Names", "args": {"n": n}} for n in (3, 4)]
    both = {"type": "torch.utils.data.ConcatDataset", "args": {"datasets": parts}}
    some = {"type": "torch.utils.data.Subset", "args": {"dataset": both, "indices": [0, 2, 6]}}
    ((x, _),) = loader_of({"dataset": some, "shuffle": False}, HERE)
    assert x[:, 0].tolist() == [0, 2, 3]


def test_what_a_project_reads_itself_is_left_to_it():
    dataset = {"type": "Names", "args": {"n": 7}}
    transform = {"type": "not there", "args": {}}
    loader = loader_of({"dataset": dataset, "transform": transform}, HERE, "Reads")
    assert loader.given == (dataset, transform)


def test_values_of_the_environment_are_taken(monkeypatch):
    monkeypatch.setenv("TINY_TABLE", "people")
    dataset = {"type": "Names", "args": {"n": 3, "table": "${TINY_TABLE}"}}
    assert loader_of({"dataset": dataset}, HERE).dataset.table == "people"
    monkeypatch.delenv("TINY_TABLE")
    with pytest.raises(ConfigError, match=r"dataset\.args\.table: TINY_TABLE is not set"):
        loader_of({"dataset": dataset}, HERE)


def test_enums_and_dtypes_by_their_names():
    for name in ("BICUBIC", "bicubic"):
        resize = {"type": f"{V2}.Resize", "args": {"size": 4, "interpolation": name}}
        dataset = {"type": "Names", "args": {"n": 3, "transform": resize}}
        made = loader_of({"dataset": dataset}, HERE).dataset.transform
        assert made.interpolation is InterpolationMode.BICUBIC
    for name in ("torch.float64", "float64"):
        kind = {"type": f"{V2}.ToDtype", "args": {"dtype": name}}
        dataset = {"type": "Names", "args": {"n": 3, "transform": kind}}
        assert loader_of({"dataset": dataset}, HERE).dataset.transform.dtype is torch.float64


def fake(**args):
    return {"dataset": {"type": "torchvision.datasets.FakeData", "args": args}}


def names(**args):
    return {"dataset": {"type": "Names", "args": {"n": 3, **args}}}


def with_transform(name, **args):
    return fake(transform={"type": name, "args": args})


BACKBONE = "examples.backbone_classifier.model"
DOWNLOADED = {"type": f"{BACKBONE}.downloaded", "args": {"name": "resnet18"}}
#: Arguments of a loader, and what is told of them.
WRONG = [
    (
        fake(siz=3),
        r"data_loader.args.dataset.args.siz: FakeData has no argument 'siz': did you mean",
    ),
    (fake(size="3"), "data_loader.args.dataset.args.size: FakeData takes size as int, found"),
    (fake(transform=[*SCALED]), "args.transform: expected one, found a list"),
    (fake(transform="nix"), "args.transform: data_loader.of_a_test has no transform 'nix'"),
    (with_transform("os.system"), "args.transform: there is no module os in"),
    (with_transform("torch.load"), "torch.load is no transform"),
    (with_transform("torch.nn.Linear"), "torch.nn.Linear is no transform"),
    (with_transform("torch.hub.load"), "nothing of torch.hub may be named"),
    (with_transform("torch.utils.data.Subset"), "torch.utils.data.Subset is no transform"),
    (with_transform("torch.utils.data.get_worker_info"), "is no transform"),
    (with_transform("torchvision.transforms.v2.functional.resize"), "is no transform"),
    (with_transform("torchvision.transforms.functional.F_pil"), "is no transform"),
    (
        with_transform("trainer.trainer.Trainer"),
        "no module trainer.trainer in data_loader, examples",
    ),
    (with_transform("EveryOther"), "has no transform 'EveryOther'"),
    (with_transform("doubled", y=1), "transform.args.y: doubled has no argument 'y'"),
    (with_transform("halved", y=1), "transform.args: an object takes no arguments"),
    (with_transform(f"{V2}.RandomCrop"), "transform.args: RandomCrop needs 'size'"),
    (with_transform(f"{V2}.ToDtype", dtype="float33"), "ToDtype takes dtype as"),
    (with_transform("called_at_once"), "transform: called_at_once takes no more arguments, and"),
    (fake(transform=DOWNLOADED), "downloaded takes no more arguments, and"),
    ({"dataset": {"type": f"{BACKBONE}.downloaded"}}, "has no dataset 'downloaded'"),
    (with_transform("times"), "transform.args: times needs 'factor'"),
    ({"dataset": {"type": "torchvision.datasets.LSUN"}}, "torchvision.datasets.LSUN is no dataset"),
    (
        {"dataset": {"type": "torchvision.datasets.lsun.LSUN"}},
        "nothing of torchvision.datasets.lsun",
    ),
    ({"dataset": {"type": "torch.utils.data.DataLoader"}}, "is no dataset"),
    ({"dataset": {"type": "torch.utils.data.Dataset"}}, "is no dataset"),
    ({"dataset": {"type": "torch.utils.data.IterDataPipe"}}, "is no dataset"),
    ({"dataset": {"type": "transformers.TextDataset"}}, "dataset: transformers"),
    ({"dataset": {"type": "Reads"}}, "has no dataset 'Reads'"),
    ({"dataset": {"type": "Nmaes"}}, "did you mean 'Names'?"),
    ({"dataset": {"type": "Names"}}, "dataset.args: Names needs 'n'"),
    ({"dataset": {"type": "Names", "args": []}}, "dataset.args: expected an object in braces"),
    (
        {"dataset": 3},
        "data_loader.args.dataset: DatasetLoader takes dataset as DatasetMaker, found 3",
    ),
    ({"batch_size": 3}, "DatasetLoader needs 'dataset'"),
    ({**names(), "sampler": {"type": "Names"}}, "has no sampler 'Names'"),
    (
        {**names(), "sampler": {"type": "EveryOther", "args": {"starts": 1}}},
        "did you mean 'start'?",
    ),
    ({**names(), "collate_fn": "nix"}, "args.collate_fn: data_loader.of_a_test has no collate fun"),
    (
        {**names(), "collate_fn": {"type": "torch.utils.data.default_collate"}},
        "no collate function",
    ),
    (
        {"dataset": {"type": "Names", "args": {"n": 3}, "evaluation_args": {"m": 3}}},
        "dataset.evaluation_args.m: Names has no argument 'm'",
    ),
    (
        {"dataset": {**names()["dataset"], "test_args": {"transform": {"type": "nix"}}}},
        "dataset.test_args.transform: data_loader.of_a_test has no transform 'nix'",
    ),
]


@pytest.mark.parametrize("args, said", WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_what_is_wrong_is_told_before_anything_is_built(args, said, monkeypatch):
    monkeypatch.setattr(Names, "__init__", Names.__init__)  # a signature is read, nothing called
    assert said in problems_of(args, HERE)


def test_an_object_without_its_arguments_is_what_was_suggested():
    assert "leave them out" in problems_of(with_transform("halved", y=1), HERE)
    assert loader_of({**with_transform("halved"), "shuffle": False}, HERE).n_samples > 0


def test_all_problems_are_told_together():
    args = {**fake(siz=3, transform={"type": "nix"}), "batch_sie": 3, "collate_fn": "nix"}
    said = problems_of(args, HERE)
    for key in ("args.dataset.args.siz:", "args.dataset.args.transform:", "args.batch_sie:"):
        assert key in said
    assert "args.collate_fn:" in said


def test_a_sampler_without_a_dataset_is_told():
    args = {"sampler": {"type": "EveryOther"}, "dataset": {"n": 3}}
    assert "sampler.args: EveryOther needs 'data_source'" in problems_of(args, HERE, "Annotated")


def test_evaluation_args_are_for_one_loader_alone():
    args = {"dataset": {**names()["dataset"], "test_args": {"n": 2}}}
    assert "test_args is for the dataset of a DatasetLoader alone" in problems_of(
        args, HERE, "Annotated"
    )


def test_what_is_made_is_no_part():
    def makes_none(n=3):
        return None

    makes_none.__module__ = HERE.__name__
    module = types.ModuleType(HERE.__name__)
    module.makes_none, module.DatasetLoader = makes_none, DatasetLoader
    with pytest.raises(ConfigError, match=r"\(makes_none\): made a NoneType, which is no dataset"):
        loader_of({"dataset": {"type": "makes_none"}}, module)


def test_a_maker_is_what_utils_has():
    assert DatasetMaker is sys.modules["machinery.order.split"].DatasetMaker


@pytest.mark.parametrize("where", ["list", "dataset", "evaluation_args"])
def test_arguments_beside_a_type_are_told(where):
    """Deep in a list they would come to the first batch as a dict; in test_args even later."""
    beside = {"type": f"{V2}.Resize", "size": 8}
    dataset = dict(FAKE)
    if where == "list":
        dataset["args"] = {**FAKE["args"], "transform": composed({"type": f"{V2}.ToImage"}, beside)}
        path = "args.dataset.args.transform.args.transforms.1"
    elif where == "dataset":
        dataset = {"type": FAKE["type"], "size": 9}
        path = "args.dataset"
    else:
        dataset["evaluation_args"] = {"transform": composed(*SCALED, beside)}
        path = "args.dataset.evaluation_args.transform.args.transforms.2"
    said = problems_of({"dataset": dataset})
    meant = f"did you mean data_loader.{path}.args.size?"
    assert f"data_loader.{path}.size is unknown: {meant}" in said
