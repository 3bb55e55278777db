"""The door for an update: group, compute, backward, step; the same on one process and on
several."""

import pytest
import torch
from torch import nn

import ranks
import tiny
from base import BaseDataLoader
from exact import Exact, furthest, settings, train
from examples.lbfgs.trainer import LBFGSTrainer
from machinery.errors import ConfigError, NonFiniteError, UserError
from trainer import Trainer


def built(tmp_path, kind, **changes):
    return tiny.build(tiny.settings(tmp_path, **changes), trainer_class=kind)


@pytest.mark.parametrize("times", [1, 3])
def test_it_is_an_error_to_go_through_half_of_a_group(tmp_path, times):
    class Half(Trainer):
        def _update(self, batches):
            with self.group(batches) as group:
                for batch in group:
                    for _ in range(times):
                        self.backward(self.compute(batch))
                    break
                group.step(self.optimizer)

    with pytest.raises(UserError, match="has gone through 1 of the group's 3 batches only"):
        built(tmp_path, Half, trainer__accumulate=3).train()


def test_it_is_an_error_to_learn_from_one_batch_in_place_of_another(tmp_path):
    class Last(Trainer):
        def _update(self, batches):
            with self.group(batches) as group:
                for batch in group:
                    computed = [self.compute(batch), self.compute(batch)]
                for each in computed:
                    self.backward(each)
                group.step(self.optimizer)

    with pytest.raises(UserError, match="has the gradients of 1 of the group's 2 batches only"):
        built(tmp_path, Last, trainer__accumulate=2).train()


def test_it_is_an_error_to_leave_a_group_without_a_step(tmp_path):
    class Never(Trainer):
        def _update(self, batches):
            with self.group(batches) as group:
                for batch in group:
                    self.backward(self.compute(batch))

    class After(Trainer):
        def _update(self, batches):
            super_update(self, batches)
            with self.group(batches) as group:
                for batch in group:
                    self.backward(self.compute(batch))
                group.step(self.optimizer)
                self.backward(self.compute(batches[0]))

    class Nothing(Trainer):
        def _update(self, batches):
            with self.group(batches) as group:
                for _ in group:
                    pass
                group.step(self.optimizer)

    super_update = Trainer._update
    for kind, message in (
        (Never, "has ended without group.step"),
        (After, "has added gradients after its last group.step"),
        (Nothing, "has the gradients of 0 of the group"),
    ):
        with pytest.raises(UserError, match=message):
            built(tmp_path, kind).train()


class Probed(Trainer):
    """A second optimizer, and a third that steps in every other update."""

    loss_terms = ("loss", "probe", "other")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.probe = nn.Linear(6, 3)
        self.probe_optimizer = torch.optim.SGD(self.probe.parameters(), lr=0.1)
        self.other = nn.Linear(6, 3)
        self.others = [torch.optim.SGD(self.other.parameters(), lr=0.1)]

    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        probe = nn.functional.cross_entropy(self.probe(batch[0]), target)
        other = nn.functional.cross_entropy(self.other(batch[0]), target)
        return {"loss": loss + probe + other, "probe": probe, "other": other}, output, target

    def _update(self, batches):
        with self.group(batches) as group:
            for batch in group:
                self.backward(self.compute(batch))
            group.step(self.optimizer, self.probe_optimizer)
        assert all(
            weight.grad is None for weight in (*self.probe.parameters(), *self.other.parameters())
        )


def test_a_step_leaves_no_gradients_behind(tmp_path):
    """Those of an optimizer that did not step would be in no checkpoint."""
    trainer = built(tmp_path, Probed, trainer__accumulate=2)
    before = [tiny.digest(trainer.probe), tiny.digest(trainer.other)]
    trainer.train()
    assert tiny.digest(trainer.probe) != before[0] and tiny.digest(trainer.other) == before[1]


def test_a_batch_is_counted_once_however_often_it_is_computed(tmp_path):
    class Twice(Trainer):
        def _update(self, batches):
            with self.group(batches) as group:
                for _ in range(2):
                    for batch in group:
                        self.backward(self.compute(batch))
                group.step(self.optimizer)

    trainer = built(tmp_path, Twice, trainer__epochs=1, trainer__accumulate=2, metrics=["accuracy"])
    trainer.train()
    assert trainer.train_metrics.count("loss") == trainer.train_metrics.count("accuracy") == 83


def test_parts_of_an_update_may_be_groups_of_their_own(tmp_path):
    """Two groups of an update are two smaller updates."""

    class Parts(Trainer):
        def _update(self, batches):
            for some in (batches[:2], batches[2:]):
                if some:
                    super()._update(some)

    config = {
        "trainer__epochs": 1,
        "arch__args": {"dropout": 0.0, "norm": False},
        "data_loader__args": {"kind": "whole"},
    }
    parts = built(tmp_path / "parts", Parts, trainer__accumulate=4, **config)
    plain = built(tmp_path / "plain", Trainer, trainer__accumulate=2, **config)
    for trainer in (parts, plain):
        trainer.train()
    assert tiny.digest(parts.model) == tiny.digest(plain.model)


def test_the_terms_are_checked_against_what_was_promised(tmp_path):
    class Other(Trainer):
        loss_terms = ("loss", "kl")

        def _forward(self, batch):
            loss, output, target = super()._forward(batch)
            return {"loss": loss, "reconstruction": loss}, output, target

    with pytest.raises(
        ConfigError, match="loss_terms says loss, kl, but _forward returns loss, reconstruction"
    ):
        built(tmp_path, Other).train()


def old_update(self, batches):
    for batch in batches:
        terms, _, _ = self._compute(batch, self.train_metrics)
        self.runtime.backward(terms["loss"])


def nested_update(self, batches):
    def add_gradients():
        for batch in batches:
            terms, _, _ = self._compute(batch, self.train_metrics)
            self.runtime.backward(terms["loss"])

    add_gradients()


def hardest_update(self, batches):
    hardest = max(batches, key=lambda batch: self._compute(batch, self.train_metrics)[0]["loss"])
    Trainer._update(self, [hardest])


def scheduled_update(self, batches):
    Trainer._update(self, batches)
    self._schedule("step", {})


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"_apply": lambda self, optimizer, losses: True}, r"Old\._apply would never be called"),
        ({"_record": lambda self, *args: None}, r"Old\._record would never be called"),
        ({"_update": old_update}, r"Old\._update uses self\._compute, which is gone"),
        ({"_update": nested_update}, r"Old\._update uses self\._compute, which is gone"),
        ({"_update": hardest_update}, r"Old\._update uses self\._compute, which is gone"),
        ({"_update": scheduled_update}, "leave self._schedule"),
    ],
)
def test_the_doors_of_before_are_refused_with_the_lines_to_write(tmp_path, methods, message):
    scheduled_update.__name__ = "_update"
    old = type("Old", (Trainer,), methods)
    with pytest.raises(ConfigError, match=message) as caught:
        built(tmp_path, old)
    assert "group.step(self.optimizer)" in str(caught.value) or "_schedule" in message


def test_the_doors_of_before_are_refused_in_a_class_in_between(tmp_path):
    between = type("Between", (Trainer,), {"_apply": lambda self, optimizer, losses: True})
    with pytest.raises(ConfigError, match=r"Between\._apply would never be called"):
        built(tmp_path, type("Own", (between,), {}))


class Cut(Trainer):
    """Computes each batch in two pieces, of other sizes."""

    def _update(self, batches):
        with self.group(batches) as group:
            for data, target in group:
                for piece in (slice(3), slice(3, None)):
                    if len(target[piece]):
                        self.backward(self.compute((data[piece], target[piece])))
            group.step(self.optimizer)


def test_pieces_of_a_batch_count_for_what_they_hold(tmp_path):
    config = {
        "arch__args": {"dropout": 0.0, "norm": False},
        "trainer__accumulate": 2,
        "trainer__epochs": 1,
    }
    whole, cut = built(tmp_path / "whole", Exact, **config), built(tmp_path / "cut", Cut, **config)
    cut.model.double()
    cut.criterion = lambda output, target: nn.functional.cross_entropy(output, target)
    cut._forward = lambda batch: (
        cut.criterion(output := cut.model(batch[0].double()), batch[1]),
        output,
        batch[1],
    )
    for trainer in (whole, cut):
        trainer.train()
    for a, b in zip(whole.model.parameters(), cut.model.parameters()):
        assert float((a - b).detach().abs().max()) < 1e-12
    assert cut.train_metrics.count("loss") == whole.train_metrics.count("loss") == 83
    assert cut.train_metrics.avg("loss") == pytest.approx(
        whole.train_metrics.avg("loss"), abs=1e-12
    )


class OwnProbed(Probed):
    """The same update from a loop of one's own."""

    def _train_epoch(self, epoch):
        for batch in self.data_loader:
            self._update([batch])
        return {"loss": 0.0}


def test_a_step_in_a_loop_of_ones_own_leaves_no_gradients_behind(tmp_path):
    built(tmp_path, OwnProbed, trainer__monitor="off", trainer__epochs=1).train()


class Poisoned(Trainer):
    """Two steps an update, of which one batch spoils both."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.applied = []

    def _update(self, batches):
        if self.step == 1:
            batches = [(data * torch.nan, target) for data, target in batches]
        before = self.model.norm.running_mean.clone()
        with self.group(batches) as group:
            for _ in range(2):
                for batch in group:
                    self.backward(self.compute(batch))
                self.applied.append(group.step(self.optimizer))
        if self.step == 1:
            assert torch.equal(self.model.norm.running_mean, before)


def test_a_skipped_update_of_two_steps_leaves_no_trace(tmp_path):
    trainer = built(tmp_path, Poisoned, trainer__on_nan="skip", trainer__epochs=1)
    trainer.train()
    assert trainer.applied[:6] == [True, True, False, False, True, True]
    assert all(bool(buffer.isfinite().all()) for buffer in trainer.model.buffers())
    assert trainer.train_metrics.count("loss") == 83 - 8


class InTurn(Trainer):
    """Two steps an update, each on the batches times a factor of its own."""

    factors = (1.0, 1.0)

    def _update(self, batches):
        self.applied, self.means = [], [self.model.norm.running_mean.clone()]
        with self.group(batches) as group:
            for factor in self.factors:
                for data, target in group:
                    self.backward(self.compute((data * factor, target)))
                self.applied.append(group.step(self.optimizer))
                self.means.append(self.model.norm.running_mean.clone())


@pytest.mark.parametrize("factors", [(1.0, torch.nan), (torch.nan, 1.0)])
def test_a_step_of_an_update_is_skipped_alone(tmp_path, factors):
    kind = type("Spoilt", (InTurn,), {"factors": factors})
    trainer = built(tmp_path, kind, trainer__on_nan="skip", trainer__epochs=1)
    trainer.train()
    assert trainer.applied == [factor == 1 for factor in factors]
    same = [torch.equal(a, b) for a, b in zip(trainer.means, trainer.means[1:])]
    assert same == [factor != 1 for factor in factors]
    assert trainer.train_metrics.count("loss") == 83


def look(self, batch):
    with torch.no_grad():
        self.compute((batch[0] * 0, batch[1]))


def look_before(self, batches):
    look(self, batches[0])
    Trainer._update(self, batches)


def look_within(self, batches):
    with self.group(batches) as group:
        for batch in group:
            look(self, batch)
            self.backward(self.compute(batch))
        group.step(self.optimizer)


@pytest.mark.parametrize("update", [look_before, look_within])
def test_a_look_without_gradients_is_not_counted_as_training(tmp_path, update):
    plain = built(
        tmp_path / "plain", Trainer, trainer__epochs=1, arch__args={"dropout": 0.0, "norm": False}
    )
    kind = type("Looking", (Trainer,), {"_update": update})
    looking = built(
        tmp_path / "looking", kind, trainer__epochs=1, arch__args={"dropout": 0.0, "norm": False}
    )
    for trainer in (plain, looking):
        trainer.train()
    assert plain.train_metrics.avg("loss") == looking.train_metrics.avg("loss")


def wrong(name):
    """Updates that are no updates, by name."""

    def update(self, batches):
        if name == "bare":
            loss, _, _ = self._forward(batches[0])
            loss.backward()
            self.optimizer.step()
            return
        if name == "before":
            computed = self.compute(batches[0])
        with self.group([] if name == "empty" else batches) as group:
            for batch in group:
                if name != "before":
                    computed = self.compute(batch)
                self.backward(computed, "kl" if name == "term" else None)
            if name == "within":
                self.group(batches)
            if name == "caught":
                raise ValueError("caught")
            arguments = {"none": (), "list": ([self.optimizer],), "closure": (lambda: None,)}
            group.step(*arguments.get(name, (self.optimizer,)))
        if name == "after":
            self.backward(computed)

    return update


WRONG = {
    "bare": "has made no group.step",
    "before": r"backward\(\) wants what compute\(batch\) gives in the same open group",
    "after": r"backward\(\) wants what compute\(batch\) gives in the same open group",
    "empty": "an update has no batches: leave an empty group out",
    "term": "no loss term is called 'kl': loss",
    "within": "a group is begun within another",
    "none": r"group.step\(\) has no optimizer",
    "list": "group.step takes optimizers, found a list",
    "closure": "group.step takes optimizers, found a function",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_update_is_told(tmp_path, name):
    kind = type("Wrong", (Trainer,), {"_update": wrong(name)})
    with pytest.raises(UserError, match=WRONG[name]):
        built(tmp_path, kind).train()


def test_an_update_that_fails_leaves_no_gradients_behind(tmp_path):
    class Caught(Trainer):
        def _update(self, batches):
            with pytest.raises(ValueError, match="caught"):
                wrong("caught")(self, batches)
            assert all(weight.grad is None for weight in self.model.parameters())
            super()._update(batches)

    built(tmp_path, Caught, trainer__epochs=1).train()


def test_a_name_that_the_template_has_taken_is_refused(tmp_path):
    kind = type("Own", (Trainer,), {"_computed": lambda self: 1})
    with pytest.raises(ConfigError, match=r"Own\._computed: the name is taken: choose another"):
        built(tmp_path, kind)


def test_a_loss_that_becomes_nan_within_a_step_of_lbfgs_is_told(tmp_path):
    class Spoilt(LBFGSTrainer):
        passes = 0

        def _forward(self, batch):
            self.passes += 1
            loss, output, target = super()._forward(batch)
            return loss * (torch.nan if self.passes == 3 else 1.0), output, target

    optimizer = {"type": "LBFGS", "args": {"lr": 0.1, "max_iter": 3}}
    trainer = built(tmp_path, Spoilt, optimizer=optimizer, trainer__monitor="off")
    with pytest.raises(
        NonFiniteError, match="within a step that computes it several times: try a smaller lr"
    ):
        trainer.train()


@pytest.mark.parametrize("spoilt", [1, 2, 3, 4])
def test_a_step_of_lbfgs_that_is_skipped_leaves_no_trace(tmp_path, spoilt):
    class Spoilt(LBFGSTrainer):
        passes, changed = 0, 0

        def _forward(self, batch):
            self.passes += self.model.training
            loss, output, target = super()._forward(batch)
            return loss * (torch.nan if self.passes == spoilt else 1.0), output, target

        def _update(self, batches):
            before = tiny.digest(self.model), repr(self.optimizer.state_dict())
            first = self.passes + 1
            super()._update(batches)
            after = tiny.digest(self.model), repr(self.optimizer.state_dict())
            assert (before == after) == (first <= spoilt <= self.passes)
            self.changed += before != after

    optimizer = {"type": "LBFGS", "args": {"lr": 0.1, "max_iter": 3}}
    trainer = built(
        tmp_path,
        Spoilt,
        optimizer=optimizer,
        trainer__on_nan="skip",
        trainer__monitor="off",
        trainer__epochs=1,
    )
    trainer.train()
    assert trainer.changed == 10


def test_an_optimizer_that_no_checkpoint_holds_is_told(tmp_path, capfd):
    class Hidden(Probed):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.box = type("Box", (), {})()
            self.box.optimizer = self.others.pop()

        def _update(self, batches):
            with self.group(batches) as group:
                for batch in group:
                    self.backward(self.compute(batch))
                group.step(self.optimizer, self.box.optimizer)

    built(tmp_path, Hidden, trainer__epochs=1).train()
    told = "a SGD steps that is no attribute of the trainer: no checkpoint holds its state"
    assert capfd.readouterr().out.count(told) == 1


class Ahead(Exact):
    """Fetches one batch ahead, and goes through the door."""

    def _train_epoch(self, epoch):
        batches = iter(self.data_loader)
        batch = next(batches)
        while batch is not None:
            following = next(batches, None)
            with self.group([batch]) as group:
                for each in group:
                    self.backward(self.compute(each))
                group.step(self.optimizer)
            batch = following
        return {"loss": 0.0}


class BareAhead(Exact):
    """The same without the door."""

    def _train_epoch(self, epoch):
        batches = iter(self.data_loader)
        batch = next(batches)
        while batch is not None:
            following = next(batches, None)
            loss, _, _ = self._forward(batch)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            batch = following
        return {"loss": 0.0}


class Bare(Exact):
    """A batch at a time, without the door; an evaluation without no_grad beside it."""

    def _train_epoch(self, epoch):
        for batch in self.data_loader:
            loss, _, _ = self._forward(batch)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        for batch in self.valid_data_loader:
            self._forward(batch)
        return {"loss": 0.0}


class Zipped(Exact):
    """Two loaders, the second of which has batches that are uneven elsewhere."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.second_loader = BaseDataLoader(tiny.Points(64), 8, True, 0.0, 0, name="second")

    def _train_epoch(self, epoch):
        for first, second in zip(self.data_loader, self.second_loader):
            loss = self._forward(first)[0] + self._forward(second)[0]
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {"loss": 0.0}


class ZippedByTheDoor(Zipped):
    def _train_epoch(self, epoch):
        for pair in zip(self.data_loader, self.second_loader):
            for batch in pair:
                with self.group([batch]) as group:
                    for each in group:
                        self.backward(self.compute(each))
                    group.step(self.optimizer)
        return {"loss": 0.0}


def own(kind, folder):
    # 60 samples in batches of 8: the last holds 4, of which each of three processes has another
    # number.
    config = settings(
        folder, trainer__monitor="off", data_loader__args={"n": 75, "validation_split": 15}
    )
    return train(config, trainer_class=kind)[0]


@pytest.mark.parametrize("kind", [Ahead, Bare, ZippedByTheDoor])
def test_loops_of_ones_own_train_alike(tmp_path, kind):
    (alone,) = ranks.run(tmp_path, 1, own, kind, tmp_path / "alone")
    for size in (2, 3):
        for weights in ranks.run(tmp_path, size, own, kind, tmp_path / str(size)):
            assert furthest(alone, weights) <= 1e-12


@pytest.mark.parametrize("kind", [BareAhead, Zipped])
def test_it_is_an_error_if_nobody_can_tell_which_batch_a_loss_is_of(tmp_path, kind):
    processes, place = ranks.start(tmp_path, 3, own, kind, tmp_path / "runs")
    codes, said = ranks.finish(processes, place)
    assert 1 in codes and any(
        "nobody says which one" in text and "self.compute(batch)" in text for text in said
    )
