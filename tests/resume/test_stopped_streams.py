"""A run over a stream that says where it stands: stopped or killed, it goes on bit for bit, and
reads nothing again."""

import json
import os
import random
import re
import shutil
import signal
import sys

import pytest

import forked
import ranks
import streams
import tiny
from machinery import distributed
from machinery.checkpoints import file as checkpoint, run_folder
from machinery.errors import Stopped
from streams import FilesLoader, samples_read
from trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class OverFiles(Trainer):
    """Trains on a stream, and may be stopped after an update."""

    made = None
    stops_at = None

    def __init__(self, *args, **kwargs):
        kwargs["data_loader"] = FilesLoader(**self.made)
        super().__init__(*args, **kwargs)

    def _update(self, batches):
        super()._update(batches)
        if (self.epoch, self.step) == self.stops_at and distributed.rank() == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def train(config, made, resume=None, stops_at=None):
    """The weights and averages of a run, or the checkpoint of a stop."""
    made = {**made, "log": made["log"] and made["log"].with_suffix(f".{distributed.rank()}")}
    cls = type("Stream", (OverFiles,), {"made": made, "stops_at": stops_at})
    trainer = tiny.build(config, resume=resume, trainer_class=cls)
    try:
        trainer.train()
    except Stopped:
        return trainer._checkpoints.newest
    weights = {name: each.tolist() for name, each in trainer.model.state_dict().items()}
    return weights, repr(trainer.optimizer.state_dict()), tiny.rows(trainer)


def settings(folder, **changes):
    changes = {"trainer__epochs": 3, "arch__args": {"norm": False}, **changes}
    return tiny.settings(folder, **changes)


@pytest.mark.parametrize(
    ("processes", "workers", "steps", "accumulate"),
    [(1, 0, 20, 1), (1, 1, 24, 3), (1, 3, 25, 2), (2, 0, 8, 1), (2, 1, 8, 3), (2, 3, 7, 1)],
)
def test_a_stop_inside_an_epoch_costs_nothing(tmp_path, processes, workers, steps, accumulate):
    config = settings(tmp_path, trainer__accumulate=accumulate)
    made = {"workers": workers, "steps": steps, "log": None}
    whole = ranks.run(tmp_path, processes, train, config, made)
    step = accumulate
    paths = ranks.run(tmp_path, processes, train, config, made, None, (2, step))
    assert f"epoch2-step{step + accumulate}" in paths[0].name
    made["log"] = tmp_path / "log"
    again = ranks.run(tmp_path, processes, train, config, made, paths[0])
    assert again == whole
    for rank in range(processes):
        left = samples_read(tmp_path / f"log.{rank}")
        # Of the second epoch what was left, and all of the third, in this order.
        ahead = 2 * 4 * workers  # workers may have fetched more than an epoch takes
        assert len(left) <= 4 * (2 * steps - step - accumulate + max(workers, 1)) + 2 * ahead


def test_what_was_fetched_when_the_signal_came_is_read_again(tmp_path, capfd):
    """The batches of an update that was not made are not behind the saved place."""
    config = settings(tmp_path, trainer__accumulate=4, trainer__verbosity=1)
    made = {"workers": 2, "steps": 22, "log": None}
    whole = train(config, made)

    class Fetching(OverFiles):
        def _groups(self, epoch):
            batches = super()._groups(epoch)
            yield next(batches)
            if epoch == 2:
                self.stop.signum = signal.SIGTERM  # as if it came while batches were fetched
            yield from batches

    cls = type("Stream", (Fetching,), {"made": made})
    trainer = tiny.build(config, trainer_class=cls)
    with pytest.raises(Stopped):
        trainer.train()
    path = trainer._checkpoints.newest
    assert "epoch2-step4" in path.name
    assert train(config, made, path) == whole
    assert "reads pass" not in capfd.readouterr().out


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stops_at", [(2, 2), (2, 6), (1, 6)])
def test_a_pass_longer_than_an_epoch_goes_on_in_the_next(tmp_path, workers, stops_at):
    """Epochs of 7 batches of one pass: nothing is read again at their edges."""
    config = settings(tmp_path, trainer__len_epoch=7)
    log = tmp_path / "log"
    made = {"workers": workers, "steps": 1000, "log": log, "kind": streams.Endless}
    whole = train(config, made)
    seen = samples_read(tmp_path / "log.0")
    if workers == 0:  # of each epoch but the first, the batch before it is read again
        assert len(seen) == 4 * (3 * 7 + 2)
    path = train(config, made, None, stops_at)
    samples_read(tmp_path / "log.0")
    assert train(config, made, path) == whole
    epoch, step = stops_at
    left = samples_read(tmp_path / "log.0")
    if workers == 0:
        done = 7 * (epoch - 1) + step + 1
        assert len(left) == 4 * (3 * 7 - done + 1 + (3 - epoch if step < 6 else 2 - epoch))


def test_another_number_of_workers_reads_up_to_the_place(tmp_path, capfd):
    """And trains what a run would that had not said where it stood."""
    made = {"workers": 2, "steps": 20, "log": None}
    path = train(settings(tmp_path / "a", trainer__verbosity=1), made, None, (2, 3))
    older = without_places(path)
    made["workers"] = 0
    capfd.readouterr()
    found = train(settings(tmp_path / "a"), made, path)
    told = "reads pass 2 up to batch 4 again: "
    assert told + "workers 2 -> 0" in capfd.readouterr().out
    assert found[:2] == train(settings(tmp_path / "a"), made, older)[:2]
    assert told + "nothing says where it stood" in capfd.readouterr().out


def test_another_number_of_processes_is_told_to_make_other_updates(tmp_path, capfd):
    """Each of them has a batch of its own."""
    config = settings(tmp_path, trainer__verbosity=1)
    made = {"workers": 0, "steps": 20, "log": None}
    path = train(config, made, None, (2, 3))
    state = checkpoint.load(path)
    state["environment"]["processes"] = 2
    checkpoint.save(state, path)
    capfd.readouterr()
    train(config, made, path)
    told = "the continued run has other updates: processes 2 -> 1, each with batch_size samples of"
    assert told in capfd.readouterr().out


@pytest.mark.parametrize(("workers", "stops_at"), [(0, (1, 30)), (3, (1, 32)), (3, (2, 26))])
def test_an_epoch_of_several_passes_that_are_short_goes_on(tmp_path, workers, stops_at):
    """Passes have three batches fewer than they promise: the place is counted as if they had."""
    config = settings(tmp_path, trainer__len_epoch=40, trainer__epochs=2, trainer__accumulate=2)
    real = len(list(FilesLoader(workers).batches(1)))
    made = {"workers": workers, "steps": real + 3, "log": None}
    whole = train(config, made)
    path = train(config, made, None, stops_at)
    assert f"epoch{stops_at[0]}-step{stops_at[1] + 2}" in path.name
    assert train(config, made, path) == whole


class Even(streams.Files):
    """Files of one length: three of them are all that each of two readers has."""

    def __init__(self, log=None):
        super().__init__((21,) * 6, log)


@pytest.mark.parametrize(("workers", "accumulate"), [(0, 2), (1, 1)])
def test_so_do_several_processes_that_are_short_of_as_many(tmp_path, workers, accumulate):
    changes = {"trainer__len_epoch": 45, "trainer__accumulate": accumulate}
    config = settings(tmp_path, **changes, trainer__epochs=2)
    made = {"workers": workers, "steps": 20, "log": None, "kind": Even}
    whole = ranks.run(tmp_path, 2, train, config, made)
    paths = ranks.run(tmp_path, 2, train, config, made, None, (1, 30))
    assert f"epoch1-step{30 + accumulate}" in paths[0].name
    assert ranks.run(tmp_path, 2, train, config, made, paths[0]) == whole


@pytest.mark.parametrize(("size", "workers", "accumulate"), [(2, 0, 3), (3, 0, 1), (2, 2, 2)])
def test_a_share_that_ends_before_others_is_told(tmp_path, size, workers, accumulate):
    """They would wait for each other until the time is over; with fewer batches they train."""
    config = settings(tmp_path, trainer__accumulate=accumulate, trainer__epochs=1)
    made = {"workers": workers, "steps": 40, "log": None}
    codes, said = ranks.finish(*ranks.start(tmp_path, size, train, config, made))
    assert set(codes) == {3}, said
    told = r"pass 1 has (\d+) batches in process \d, and more in others: .* len say at most \1"
    (fewest,) = {int(re.search(told, each)[1]) for each in said}
    ranks.run(tmp_path, size, train, config, {**made, "steps": fewest})


def without_places(path):
    """The copy of a run, whose checkpoint is as earlier versions have written it."""
    path = shutil.copytree(path.parent, path.parent.with_name("copy")) / path.name
    content = checkpoint.load(path)
    for name in ("states", "classes", "structures"):
        del content[name]["data_loader.places"]
    checkpoint.save(content, path)
    return path


def command(config, run_id, made, kill_at=0, counted=None):
    """`train.py -c CONFIG --run_id RUN -r auto`, killed at an instant; or how many there were."""
    killer = forked.KillAt(kill_at)
    sys.setprofile(killer)
    cls = type("Stream", (OverFiles,), {"made": made})
    words = ("-c", config, "--run_id", run_id, "-r", "auto")
    tiny.build(tiny.command_line(*words), trainer_class=cls).train()
    sys.setprofile(None)
    if counted is not None:
        counted.write_text(str(killer.count))


def outcome(folder):
    """The last weights and states of a run."""
    state = checkpoint.load(run_folder.newest_whole(folder)[0])
    weights = {name: value.tolist() for name, value in state["state_dict"].items()}
    return weights, repr(state["optimizer"]), state["states"]["data_loader.places"]


@pytest.mark.parametrize("workers", [0, 2])
def test_kills_cost_nothing(tmp_path, workers):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings(tmp_path, trainer__save_step=3, trainer__accumulate=2)))
    made = {"workers": workers, "steps": 20}
    models = tmp_path / "models" / "Tiny"
    counted = tmp_path / "counted"
    assert forked.finish(forked.start(command, config, "whole", made, 0, counted)) == 0
    instants = int(counted.read_text())
    draw = random.Random(workers)
    for kills in range(100):
        at = draw.randint(instants // 8, instants // 2) + kills * instants // 8
        code = forked.finish(forked.start(command, config, "killed", made, at))
        if code == 0:
            break
        assert code == -9
    assert kills > 1 and outcome(models / "killed") == outcome(models / "whole")
