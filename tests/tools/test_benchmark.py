"""tools/benchmark.py: both sides compute the same, and the figures are what they are called."""

import logging

import pytest
import torch

from data_loader.data_loaders import DigitsDataLoader
from machinery.files import ROOT
from model.loss import cross_entropy as nll
from model.model import MnistModel
from projects import quick
from tools import bare_loop, benchmark
from tools.benchmarks import commands, libraries, loops, paired, steps
from tools.benchmarks.paired import ByHand, Pair, Stopwatch


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_the_benchmarks_sides_compute_the_same(tmp_path, capfd, monkeypatch):
    few = loops.digits(1)
    monkeypatch.setattr(loops, "digits", lambda copies: few)
    case = steps.in_turn(tmp_path, n=320)  # it compares the losses of both sides itself
    figures = benchmark.figure(case, runs=1)
    validation = benchmark.figure(loops.validation(tmp_path), runs=1)
    assert figures["ours_s"] > 0 and figures["unit"] == "step" and validation["ratio"] > 0
    assert "step of a linear model" in capfd.readouterr().out


def test_other_libraries_are_columns(tmp_path, capfd):
    case = loops.Case(
        "a case", "run", lambda: 0.2, lambda: 0.1, {"lightning": lambda: Pair(0.4, 0.1)}
    )
    assert benchmark.figure(case, runs=1)["others"] == {"lightning": 4.0}
    assert "200.0 ms   100.0 ms   2.000" in capfd.readouterr().out
    assert set(libraries.installed()) <= {"lightning", "accelerate", "ignite"}


def test_the_bare_loop_is_the_template_s_own_training(tmp_path):
    network, by_hand = MnistModel(), bare_loop.LeNet()
    by_hand.load_state_dict(network.state_dict())
    train, test = bare_loop.digits(torch.device("cpu"))
    for data, training in ((train, True), (test, False)):
        loader = DigitsDataLoader(training=training, shuffle=False, batch_size=500)
        assert torch.equal(data[0], torch.cat([images for images, _ in loader]))
        assert torch.equal(data[1], torch.cat([labels for _, labels in loader]))
    x, y = next(iter(DigitsDataLoader(training=False, shuffle=False, batch_size=1000)))
    with torch.no_grad():
        output = network.eval()(x)
    loss, accuracy = bare_loop.evaluate(by_hand, test)
    assert loss == pytest.approx(float(torch.nn.functional.nll_loss(output, y)), rel=1e-5)
    assert accuracy == pytest.approx(float((output.argmax(1) == y).float().mean()))
    turned = bare_loop.augmented(x)
    assert turned.shape == x.shape and not torch.equal(turned, x)


def test_the_bare_loop_runs():
    command = ["tools/bare_loop.py", "--epochs", "1"]
    result = quick(ROOT, *command)
    assert result.returncode == 0 and result.stdout.startswith("epoch 1: loss "), result.stderr
    never = quick(ROOT, *command, "--until", "0.999")
    assert never.returncode == 1 and "0.999 was never reached" in never.stderr


def test_the_time_to_an_accuracy_ends_with_the_epoch_that_reaches_it(tmp_path, monkeypatch):
    def ran(*command):
        assert "seed=1" in command
        folder = tmp_path / "log" / "Digits_LeNet" / "accuracy1"
        folder.mkdir(parents=True)
        rows = ["epoch,val_accuracy,seconds", "1,0.9,2", "2,0.96,4", "3,0.95,8", "4,0.99,16"]
        (folder / "metrics.csv").write_text("\n".join(rows))
        return 31.5

    monkeypatch.setattr(commands, "seconds", ran)
    assert commands.accuracy(tmp_path, 0.96).ours() == 31.5 - 24
    (tmp_path / "log" / "Digits_LeNet" / "accuracy1").rename(tmp_path / "aside")
    with pytest.raises(RuntimeError, match=r"seed 1 did not reach 0\.999"):
        commands.accuracy(tmp_path, 0.999).ours()


def test_peak_memory_is_that_of_the_side(tmp_path):
    def case(folder):
        return loops.Case("a case", "run", lambda: float(torch.ones(30_000_000).sum()), lambda: 0.0)

    if benchmark.PEAK.exists():
        assert benchmark.peak(case, "ours", tmp_path) > 100 > benchmark.peak(case, "bare", tmp_path)


def test_the_sides_are_compared(tmp_path, monkeypatch):
    case = steps.in_turn(tmp_path, n=320)
    case.ours()
    monkeypatch.setattr(ByHand, "epoch", lambda *args: 7.0)
    with pytest.raises(AssertionError):
        case.bare()


def test_steps_in_pairs_are_timed_each_by_itself(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(paired, "_now", lambda: now[0])

    def by_hand():
        now[0] += 2.0

    watch = Stopwatch(by_hand)
    for step in range(101):
        now[0] += 3.0 if step % 3 else 50.0  # of a machine that does something else now and then
        watch.stepped()
    assert watch.pair() == (3.0, 2.0) and watch.pair().ratio == 1.5


def test_paired_steps_are_those_of_the_template(tmp_path):
    case = steps.paired_linear(tmp_path, n=1280)
    pair = case.run()
    assert 0 < pair.bare < pair.ours


def test_a_step_by_hand_is_that_of_its_epoch():
    data = steps.Vectors(48, 8)
    sides = []
    for _ in range(2):
        torch.manual_seed(0)
        sides.append(torch.nn.Linear(8, 4))
    order = torch.randperm(48)
    by_epoch, by_step = (ByHand(m, paired.Data(data.x, data.y), 16, nll) for m in sides)
    by_epoch.epoch(order)
    step = by_step.steps(order)
    for _ in range(3):
        step()
    assert torch.equal(sides[0].weight, sides[1].weight)
