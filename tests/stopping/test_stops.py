"""A stop is polite wherever it comes: what is saved, and what is not waited for."""

import os
import signal
import sys

import pytest
import torch

import tiny
from base import BaseDataLoader
from machinery.errors import Stopped
from machinery.stopping import StopRequest
from tiny import Noisy


def test_a_signal_after_the_templates_epoch_keeps_it(tmp_path):
    class Afterwards(tiny.Trainer):
        def _train_epoch(self, epoch):
            log = super()._train_epoch(epoch)
            if epoch == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return log

    trainer = tiny.build(tiny.settings(tmp_path), trainer_class=Afterwards)
    with pytest.raises(Stopped, match="after epoch 2"):
        trainer.train()
    assert (trainer.checkpoint_dir / "checkpoint-epoch2.pth").exists()


def test_a_stop_is_no_exception_that_code_on_its_way_catches():
    from machinery.errors import Stopped

    assert not issubclass(Stopped, Exception)


class StoppedInFetch(tiny.Trainer):
    """Gets a signal while the first batch of an epoch is fetched."""

    at_epoch = 1

    def _groups(self, epoch):
        dataset = self.data_loader.dataset
        inner = type(dataset).__getitem__

        def fetch(data, i):
            if self.epoch == self.at_epoch and self.step == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return inner(data, i)

        dataset.__class__ = type("Points", (type(dataset),), {"__getitem__": fetch})
        return super()._groups(epoch)


@pytest.mark.parametrize("epoch, save_period", [(1, 1), (2, 1), (3, 10)])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_stop_before_the_first_step_of_an_epoch_is_one_after_the_epoch_before(
    tmp_path, epoch, save_period, accumulate
):
    settings = {
        "trainer__save_period": save_period,
        "trainer__accumulate": accumulate,
        "trainer__monitor": "off",
    }
    whole = tiny.train(tiny.settings(tmp_path / "a", **settings))
    config = tiny.settings(tmp_path / "b", **settings)
    trainer = tiny.build(config, trainer_class=type("T", (StoppedInFetch,), {"at_epoch": epoch}))
    with pytest.raises(
        BaseException, match=f"stopped by SIGTERM in epoch {epoch}, step 0"
    ) as caught:
        trainer.train()
    names = [path.name for path in trainer.checkpoint_dir.glob("*.pth")]
    if epoch == 1:
        assert not names and "nothing had been saved yet" in str(caught.value)
        return
    assert f"checkpoint-epoch{epoch - 1}.pth" in names and not any("step" in name for name in names)
    again = tiny.train(config, resume=trainer.checkpoint_dir / f"checkpoint-epoch{epoch - 1}.pth")
    assert tiny.digest(again.model) == tiny.digest(whole.model) and tiny.rows(again) == tiny.rows(
        whole
    )


def test_a_signal_at_any_line_of_a_fetch_ends_it_quietly():
    """At each line of `until`, and in each of the iterator's own: no exception, and no batch is
    lost unsaid."""
    for at in range(1, 60):
        count, stop = 0, StopRequest()

        def trace(frame, event, argument):
            nonlocal count
            if frame.f_code.co_name in ("until", "batches"):
                count += event == "line"
                if count == at and event == "line":
                    stop._note(signal.SIGTERM, None)
            return trace

        def batches():
            for i in range(5):
                value = i * 1
                yield value

        sys.settrace(trace)
        try:
            came = list(stop.until(batches()))
        finally:
            sys.settrace(None)
        assert came == list(range(len(came)))


def test_a_stop_does_not_wait_for_a_slow_fetch(tmp_path):
    stopped_in = []

    class Slow(Noisy):
        def __getitem__(self, i):
            if len(stopped_in) == 0 and torch.utils.data.get_worker_info() is None and Slow.armed:
                stopped_in.append(i)
                os.kill(os.getpid(), signal.SIGTERM)
                raise AssertionError("the fetch went on")
            return super().__getitem__(i)

    def build(config, **kwargs):
        trainer = tiny.build(config, **kwargs)
        trainer.data_loader = BaseDataLoader(Slow(), 8, True, 0.0, 0)
        trainer.valid_data_loader = BaseDataLoader(Slow(), 8, False, 0.0, 0, name="valid")
        return trainer

    for arm_at in (3, "valid"):
        Slow.armed, where = False, tmp_path / str(arm_at)
        unbroken = build(tiny.settings(where / "a", trainer__epochs=1))
        unbroken.train()
        trainer = build(tiny.settings(where / "b", trainer__epochs=1))
        update, evaluate = trainer._update, trainer.evaluate

        def armed_update(batches, trainer=trainer, update=update, arm_at=arm_at):
            update(batches)
            Slow.armed = trainer.step + 1 == arm_at

        def armed_evaluate(*args, evaluate=evaluate, arm_at=arm_at):
            Slow.armed = arm_at == "valid"
            return evaluate(*args)

        trainer._update, trainer.evaluate = armed_update, armed_evaluate
        with pytest.raises(
            BaseException,
            match=f"stopped by SIGTERM in epoch 1, step {arm_at if arm_at == 3 else 10}",
        ):
            trainer.train()
        Slow.armed = False
        stopped_in.clear()
        (path,) = trainer.checkpoint_dir.glob("*step*")
        again = build(tiny.settings(where / "b", trainer__epochs=1), resume=path)
        again.train()
        assert tiny.digest(again.model) == tiny.digest(unbroken.model) and tiny.rows(
            again
        ) == tiny.rows(unbroken)
