"""Samples drawn by weight beside a split, and batches by length or by tokens: the same on any
number of processes, after any resume, and with any number of workers."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset

import exact
import ranks
import tiny
from base import BaseDataLoader
from machinery.errors import CheckpointError, ConfigError, Stopped
from machinery.order.choosing import LengthBatches, _rounded_up
from trainer import Trainer


class Sentences(torch.utils.data.Dataset):
    """Rows of tokens of uneven lengths, 1 to 30; of three classes, not equally many."""

    def __init__(self, n=101):
        rng = np.random.default_rng(3)
        self.lengths = rng.integers(1, 31, n)
        self.rows = [torch.from_numpy(rng.integers(1, 9, size)) for size in self.lengths]
        self.targets = [0 if i % 7 else 1 + i % 2 for i in range(n)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i], self.targets[i], i


def padded(samples):
    rows, targets, indices = zip(*samples, strict=True)
    x = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return x, torch.tensor(targets), torch.tensor(indices)


def loader_of(dataset=None, batch_size=8, shuffle=True, split=0.2, workers=0, **options):
    dataset = Sentences() if dataset is None else dataset
    return BaseDataLoader(dataset, batch_size, shuffle, split, workers, padded, **options)


def indices(batches):
    return [i.tolist() for _, _, i in batches]


def flat(batches):
    return [i for batch in batches for i in batch]


@pytest.mark.parametrize("split", [0.0, 0.2])
@pytest.mark.parametrize("by, size", [("length", 8), ("tokens", 64)])
def test_each_pass_has_each_sample_once_in_as_many_batches(by, size, split):
    loader = loader_of(batch_size=size, split=split, batch_by=by)
    seen = [indices(loader.batches(epoch)) for epoch in (1, 2, 3)]
    for batches in seen:
        assert len(batches) == len(loader)
        assert len(flat(batches)) == len({*flat(batches)}) == loader.n_samples
    assert seen[0] != seen[1]
    # Not only the order of the batches differs.
    assert {frozenset(batch) for batch in seen[0]} != {frozenset(batch) for batch in seen[1]}
    if split:
        held_out = indices(loader.split_validation())
        assert not {*flat(held_out)} & {*flat(seen[0])}
        assert flat(held_out) == loader.valid_sampler.indices.tolist()


@pytest.mark.parametrize("shuffle", [True, False])
def test_no_batch_has_more_tokens_than_asked_for(shuffle):
    for tokens in (30, 50, 64, 200):
        loader = loader_of(batch_size=tokens, shuffle=shuffle, split=0.0, batch_by="tokens")
        sizes = [x.numel() for x, _, _ in loader]
        assert max(sizes) <= tokens
        # And none is much smaller than it might be, but for the last of each length.
        lengths = loader.dataset.lengths.sum()
        assert len(sizes) < 3 * math.ceil(lengths / tokens) + 8


def test_batches_by_length_hold_about_as_long_samples():
    def waste(**options):
        filled = [(x.numel(), int((x > 0).sum())) for x, _, _ in loader_of(split=0.0, **options)]
        return 1 - sum(used for _, used in filled) / sum(size for size, _ in filled)

    assert waste(batch_by="length") < 0.12 < 0.3 < waste()


def test_lengths_that_are_alike_count_as_equal():
    lengths = np.array([100, 92, 90, 50, 49, 10, 0, 0])
    assert _rounded_up(lengths).tolist() == [100, 100, 90, 50, 50, 10, 0, 0]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("by, size", [("length", 8), ("tokens", 64)])
def test_a_pass_begins_at_any_batch(by, size, workers):
    loader = loader_of(batch_size=size, batch_by=by)
    whole = indices(loader.batches(2))
    again = loader_of(batch_size=size, batch_by=by, workers=workers)
    assert indices(again.batches(2, 4)) == whole[4:]


def test_the_batches_of_each_pass_are_shuffled():
    loader = loader_of(batch_by="length", split=0.0)  # the last of 13 batches has 5 samples
    places = {[len(batch) for batch in indices(loader.batches(e))].index(5) for e in range(1, 9)}
    assert len(places) > 3


def test_another_name_draws_other_batches():
    first, second = (loader_of(batch_by="length", name=name) for name in ("one", "two"))
    assert indices(first.batches(1)) != indices(second.batches(1))
    first.rename("two")
    assert indices(first.batches(1)) == indices(second.batches(1))


def test_lengths_of_a_subset_and_under_another_name():
    class Named(Sentences):
        def __init__(self):
            super().__init__()
            self.tokens = torch.from_numpy(self.lengths)
            del self.lengths

    data = Named()
    some = Subset(Subset(data, range(60)), range(1, 60, 2))
    loader = loader_of(some, 64, split=0.0, batch_by="tokens", lengths="tokens")
    seen = flat(indices(loader))
    assert sorted(seen) == list(range(1, 60, 2))
    assert max(x.numel() for x, _, _ in loader) <= 64


WRONG = [
    ({"batch_by": "size"}, 'batch_by: expected "length" or "tokens", found \'size\''),
    ({"batch_by": "length", "lengths": "sizes"}, "batch_by: Sentences has no attribute 'sizes'"),
    ({"batch_by": "tokens"}, "tokens, and a batch 8: raise batch_size"),
    ({"batch_by": "length", "drop_last": True}, "drop_last has no effect beside batch_by"),
    ({"batch_by": "length", "weights": "balanced"}, "weights and batch_by do not go together"),
    ({"batch_by": "length", "sampler": [1, 2]}, "have no effect beside a sampler of your own"),
    ({"weights": "balanced", "sampler": [1, 2]}, "have no effect beside a sampler of your own"),
    ({"weights": "heavy"}, "weights: Sentences has no attribute 'heavy'"),
    ({"weights": [1.0, 2.0]}, r"weights: the list has the shape [2], for 101 samples"),
    ({"weights": [0.0] * 101}, "weights: expected numbers of at least 0 that are not all 0"),
    ({"weights": [-1.0] + [1.0] * 100}, "weights: expected numbers of at least 0"),
    ({"weights": [float("nan")] * 101}, "weights: expected numbers of at least 0"),
]


@pytest.mark.parametrize("options, said", WRONG, ids=[row[1] for row in WRONG])
def test_what_makes_no_sense_is_told(options, said):
    with pytest.raises(ConfigError) as caught:
        loader_of(split=0.0, **options)
    assert said in str(caught.value)


class Short(Sentences):
    """Sentences of at most 8 tokens."""

    def __init__(self):
        super().__init__()
        self.rows = [row[:8] for row in self.rows]
        self.lengths = self.lengths.clip(max=8)


#: Options, what is told of them, and what that suggests.
HELPED = [
    ({"batch_by": "tokens"}, "raise batch_size", {"batch_by": "tokens", "batch_size": 30}),
    ({"batch_by": "tokens"}, "or cut the samples", {"batch_by": "tokens", "dataset": Short()}),
    (
        {"batch_by": "length", "drop_last": True},
        "set it to false",
        {"batch_by": "length", "drop_last": False},
    ),
    ({"batch_by": "length", "weights": "balanced"}, "leave one out", {"batch_by": "length"}),
    ({"batch_by": "length", "weights": "balanced"}, "leave one out", {"weights": "balanced"}),
    (
        {"dataset": tiny.Points(30), "weights": "balanced"},
        "or give weights as the name of another",
        {"dataset": tiny.Points(30), "weights": "y"},
    ),
    (
        {"dataset": tiny.Points(30), "weights": "balanced"},
        "give it an attribute targets",
        {"dataset": Sentences(), "weights": "balanced"},
    ),
]


@pytest.mark.parametrize("options, said, right", HELPED)
def test_what_is_suggested_helps(options, said, right):
    with pytest.raises(ConfigError, match=said):
        loader_of(split=0.0, **options)
    assert loader_of(split=0.0, **right).n_samples > 0


@pytest.mark.parametrize(
    "option", [{"weights": "balanced"}, {"batch_by": "length"}, {"skip_unreadable": True}]
)
def test_iterable_data_choose_themselves(option):
    with pytest.raises(ConfigError, match="are not for iterable data"):
        BaseDataLoader(tiny.Stream(30), 8, False, 0, 0, **option)


def test_classes_that_nobody_knows_are_told():
    with pytest.raises(ConfigError, match="needs the class of each sample of Points: give it an"):
        BaseDataLoader(tiny.Points(30), 8, True, 0, 0, weights="balanced")


def test_balanced_draws_each_class_as_often_and_validates_each_sample_once():
    loader = loader_of(Sentences(1001), 64, weights="balanced")
    assert loader.n_samples == 801 and len(loader) == 13
    training = {*range(1001)} - {*loader.valid_sampler.indices.tolist()}
    counts = torch.zeros(3)
    seen = set()
    for epoch in range(1, 6):
        for _, y, i in loader.batches(epoch):
            counts += torch.bincount(y, minlength=3)
            seen.update(i.tolist())
    assert seen <= training and counts.sum() == 5 * 801
    assert ((counts / counts.sum() - 1 / 3).abs() < 0.03).all()
    held_out = flat(indices(loader.split_validation()))
    assert held_out == loader.valid_sampler.indices.tolist()


@pytest.mark.parametrize("given", ["list", "attribute"])
def test_weights_of_the_samples(given):
    data = Sentences()
    data.heavy = torch.tensor([0.0 if i % 3 else 1.0 + (i > 50) for i in range(101)])
    weights = data.heavy.tolist() if given == "list" else "heavy"
    loader = loader_of(data, weights=weights)
    seen = torch.tensor(flat(flat(indices(loader.batches(epoch)) for epoch in range(1, 60))))
    assert (seen % 3 == 0).all()
    of_training = torch.arange(0, 101, 3)
    of_training = of_training[~torch.isin(of_training, torch.tensor(loader.valid_sampler.indices))]
    heavy = (of_training > 50).sum()
    expected = float(2 * heavy / (len(of_training) + heavy))
    assert float((seen > 50).float().mean()) == pytest.approx(expected, abs=0.03)


def test_weights_draw_nothing_in_an_evaluation(caplog):
    caplog.set_level("INFO")
    loader = loader_of(shuffle=False, split=0.0, weights="balanced")
    assert flat(indices(loader)) == list(range(101))
    assert "weights draw nothing where shuffle is false" in caplog.text


def test_a_pass_by_weight_begins_at_any_batch():
    whole = indices(loader_of(weights="balanced").batches(3))
    assert indices(loader_of(weights="balanced", workers=2).batches(3, 5)) == whole[5:]
    assert indices(loader_of(weights="balanced").batches(2)) != whole


# Training: the same on any number of processes, and after a stop inside an epoch.


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 5, padding_idx=0)
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        return self.fc(self.embedding(x).sum(1) / (x > 0).sum(1, keepdim=True))


class SentenceLoader(BaseDataLoader):
    def __init__(self, **options):
        super().__init__(Sentences(), collate_fn=padded, **options)


class OfSentences(Trainer):
    """In float64; the loss is a mean over samples, or over their tokens."""

    over_tokens = False

    def __init__(self, model, *args, **kwargs):
        super().__init__(model.double(), *args, **kwargs)

    def loss_size_of(self, batch):
        if self.over_tokens:
            return int((batch[0] > 0).sum())
        return len(batch[0])

    def _forward(self, batch):
        x, target, _ = batch
        output = self.model(x)
        each = nn.functional.cross_entropy(output, target, reduction="none")
        counts = torch.ones(len(x), dtype=torch.float64)
        if self.over_tokens:
            counts = (x > 0).sum(1).double()
        return (each * counts).sum() / counts.sum(), output, target


class OfTokens(OfSentences):
    over_tokens = True


def settings(folder, **args):
    args = {"batch_size": 64, "validation_split": 0.2, **args}
    return exact.settings(
        folder,
        arch={"type": "Tokens"},
        data_loader={"type": "SentenceLoader", "args": args},
        trainer__accumulate=3,
        metrics=["accuracy"],
    )


tiny.Tokens, tiny.SentenceLoader = Tokens, SentenceLoader
CHOICES = [
    ({"batch_by": "tokens"}, OfTokens),
    ({"batch_by": "length", "batch_size": 7}, OfSentences),
    ({"weights": "balanced", "batch_size": 7}, OfSentences),
]


@pytest.mark.parametrize("args, kind", CHOICES, ids=["tokens", "length", "weights"])
def test_processes_train_as_one(tmp_path, args, kind):
    def train(folder):
        return exact.train(settings(folder, **args), trainer_class=kind)[:3]

    one = train(tmp_path / "one")
    for size in (2, 3):
        for weights, logs, samples in ranks.run(tmp_path, size, train, tmp_path / str(size)):
            assert exact.furthest(weights, one[0]) < 1e-12 and samples == one[2]
            for mine, other in zip(logs, one[1], strict=True):
                assert mine == pytest.approx(other, abs=1e-12)


@pytest.mark.parametrize("args, kind", CHOICES, ids=["tokens", "length", "weights"])
def test_a_stop_inside_an_epoch_changes_nothing(tmp_path, args, kind):
    unbroken = tiny.build(settings(tmp_path / "a", **args), trainer_class=kind)
    unbroken.train()
    config = settings(tmp_path / "b", **args)
    stops = {"after": len(unbroken.data_loader) + 4}
    stopped = tiny.build(config, trainer_class=type("Stops", (tiny.Interrupted, kind), stops))
    with pytest.raises(Stopped):
        stopped.train()
    path = tiny.newest(stopped.checkpoint_dir)
    assert "-step" in path.name
    resumed = tiny.build(config, resume=path, trainer_class=kind)
    resumed.train()
    assert tiny.digest(resumed.model) == tiny.digest(unbroken.model)
    assert tiny.rows(resumed) == tiny.rows(unbroken)


OTHERS = [
    ({"batch_by": "length"}, {"batch_by": "tokens"}, "batch_by length -> tokens"),
    ({"weights": "balanced"}, {"weights": None}, "weights balanced -> None"),
    ({"weights": [1.0] * 101}, {"weights": [2.0] * 100 + [1.0]}, r"weights a list \(\w+\) -> a"),
]


@pytest.mark.parametrize("before, after, said", OTHERS, ids=["by", "balanced", "list"])
def test_inside_an_epoch_the_choice_stays(tmp_path, before, after, said):
    config = settings(tmp_path / "a", **before)
    config["data_loader"]["args"]["batch_size"] = 30 if "batch_by" in before else 7
    config["trainer"]["accumulate"] = 1
    kind = type("Stops", (tiny.Interrupted, OfSentences), {"after": 2})
    stopped = tiny.build(config, trainer_class=kind)
    with pytest.raises(Stopped):
        stopped.train()
    path = tiny.newest(stopped.checkpoint_dir)
    assert "-step" in path.name
    config["data_loader"]["args"].update(after)
    with pytest.raises(CheckpointError, match=said):
        tiny.build(config, resume=path, trainer_class=OfSentences).train()


def test_between_epochs_the_choice_may_be_another(tmp_path):
    config = settings(tmp_path / "a", batch_by="length", batch_size=7)
    first = tiny.build(config, trainer_class=OfSentences)
    first.train()
    config["data_loader"]["args"].update(batch_by=None, weights="balanced")
    config["trainer"]["epochs"] = 3
    path = tiny.newest(first.checkpoint_dir)
    goes_on = tiny.build(config, resume=path, trainer_class=OfSentences)
    goes_on.train()
    assert goes_on.epoch == 3


def test_the_batches_of_a_pass_are_cut_from_its_order():
    lengths = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    batches = LengthBatches(lambda epoch: np.arange(8), lengths, 10, True, None)
    assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3], [4], [5], [6], [7]]
