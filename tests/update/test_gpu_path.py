"""The GPU's path without a GPU: steps on device meta, and on a fake cuda:0, for every precision.

On meta, a tensor left on the CPU fails, and so does whatever reads a value: a step that passes
never waits for the GPU.
"""

from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tiny
from bending.gan import GANTrainer
from bent import gan
from data_loader.data_loaders import InMemoryImages
from machinery.config.settings import TrainerSettings
from machinery.order import seeding
from machinery.update.metrics import MetricTracker
from machinery.update.runtime import Runtime
from model.loss import nll_loss
from model.metric import accuracy, top_k_acc
from model.model import MnistModel

#: What torch says when a value of device meta is read.
READS = r"meta tensors|meta tensor; no data"


def on_meta(tmp_path, **changes):
    """A trainer whose model and sums are on device meta."""
    trainer = tiny.build(tiny.settings(tmp_path, **{"metrics": ["accuracy"], **changes}))
    trainer.model = trainer.model.to("meta")
    trainer.optimizer = torch.optim.Adam(trainer.model.parameters(), lr=0.01)
    trainer.device = torch.device("meta")
    trainer.runtime = Runtime(trainer.device, trainer.settings)
    return trainer


def run(trainer, updates=4):
    """Some updates, without the looks of every log_step."""
    trainer.log_step = 10**9
    trainer.model.train()
    for batches, _ in zip(trainer._groups(1), range(updates)):
        trainer._update(batches)
        trainer._after_update(len(batches))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trainer__accumulate": 3},
        {"trainer__clip_grad_norm": 0.5},
        {"trainer__on_nan": "ignore"},
        {"data_loader__args": {"kind": "whole"}},
        {"lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1}, "interval": "step"}},
    ],
)
def test_a_step_reads_nothing_from_the_device(tmp_path, changes):
    trainer = on_meta(tmp_path, **changes)
    run(trainer)
    assert trainer.step == min(4 * trainer.accumulate, 11)
    assert trainer.train_metrics._sums["loss"].device.type == "meta"
    with pytest.raises((RuntimeError, NotImplementedError), match=READS):  # a look is what waits
        trainer._log_window()


def test_a_metric_that_reads_a_value_is_found(tmp_path):
    with pytest.raises((RuntimeError, NotImplementedError), match=READS):
        run(on_meta(tmp_path, metrics=["mean_accuracy"]))


def test_skip_reads_a_value_in_each_step(tmp_path):
    with pytest.raises((RuntimeError, NotImplementedError), match=READS):
        run(on_meta(tmp_path, trainer__on_nan="skip"))


def test_a_tensor_left_behind_is_found(tmp_path):
    class Forgetful(tiny.Trainer):
        def _forward(self, batch):
            data, target = batch
            output = self.model(data)
            return (
                self.criterion(output, target)
                + (output.detach() * torch.randn(len(data), 3)).mean(),
                output,
                target,
            )

    trainer = on_meta(tmp_path)
    trainer.__class__ = Forgetful
    with pytest.raises(RuntimeError, match=r"meta"):
        run(trainer)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_forward_and_step_on_a_fake_gpu(monkeypatch, precision, channels_last):
    # Autocast asks for a driver, and whether the GPU has bf16.
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True)
    device = torch.device("cuda:0")
    images = InMemoryImages(torch.zeros(8, 28, 28, dtype=torch.uint8), torch.zeros(8), 0.1, 0.3)
    batch = images.__getitems__(torch.arange(8))
    with FakeTensorMode(allow_non_fake_inputs=True):
        # The scaler of fp16 asks the real driver, so only its casts are tried here.
        scaled = precision == "fp16"
        settings = TrainerSettings(
            epochs=1, precision="fp32" if scaled else precision, channels_last=channels_last
        )
        runtime = Runtime(device, settings)
        if scaled:
            runtime._dtype = torch.float16
        with device:
            model = MnistModel()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        seen = []
        model.conv1.register_forward_hook(lambda module, inputs, result: seen.append(result.dtype))
        data, target = runtime.move(batch)
        assert data.device == target.device == device
        with runtime.autocast():
            output = model(data)
            loss = nll_loss(output, target)
        tracker = MetricTracker("loss", "accuracy", "top_k_acc")
        with torch.no_grad():
            tracker.update("loss", loss, 8)
            tracker.update("accuracy", accuracy(output, target), 8)
            tracker.update("top_k_acc", top_k_acc(output, target), 8)
        assert seen == [
            {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        ]
        assert loss.dtype == torch.float32 and tracker._sums["loss"].device == device
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        runtime.step([optimizer])
        assert all(state["exp_avg"].device == device for state in optimizer.state.values())


def test_what_a_step_costs_in_calls(tmp_path, monkeypatch):
    """A guard against work that sneaks into the step: counts, not times."""
    writes, fetches, seeds = [], [], []
    monkeypatch.setattr(
        tiny.WholePoints, "__getitems__", counted(tiny.WholePoints.__getitems__, fetches)
    )
    trainer = tiny.build(
        tiny.settings(
            tmp_path, data_loader__args={"kind": "whole", "batch_size": 4}, trainer__epochs=1
        )
    )
    trainer.writer.enabled = True
    monkeypatch.setattr(trainer.writer, "_write", lambda name, *args, **kwargs: writes.append(name))
    monkeypatch.setattr(
        "machinery.order.seeding.seed_modules", counted(seeding.seed_modules, seeds)
    )
    trainer.log_step = 10
    trainer.train()
    batches, validation, windows, numbers = 21, 5, 3, 3
    assert len(fetches) == batches + validation
    # In each window the rate, too; after the epoch what was best, and samples a second.
    assert writes.count("add_scalar") == windows * (numbers + 1) + numbers + numbers + 1
    # One for a fetch, one for a step, and none else but the epoch's own at its start and its end.
    assert len(seeds) == 2 * (batches + validation) + 2


class Operations(TorchDispatchMode):
    """Counts the operations that run, and the memory they take: results that share none with the
    arguments."""

    def __init__(self):
        super().__init__()
        self.names, self.allocations = Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.names[str(function)] += 1
        before = {
            storage(tensor)
            for tensor in tree_leaves((args, kwargs))
            if isinstance(tensor, torch.Tensor)
        }
        after = [
            storage(tensor) for tensor in tree_leaves(result) if isinstance(tensor, torch.Tensor)
        ]
        self.allocations += sum(one not in before for one in after)
        return result


def storage(tensor):
    return tensor.untyped_storage()._cdata


def bare_step(model, optimizer, data, target, sums):
    output = model(data)
    loss = tiny.cross_entropy(output, target)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    sums[0].add_(loss.detach(), alpha=len(target))
    sums[1] += (output.argmax(1) == target).sum()


def test_what_a_step_costs_in_operations(tmp_path):
    """Over those of a bare loop: as few as sums in float64 take, and no copy of a batch or of the
    weights."""
    trainer = tiny.build(
        tiny.settings(tmp_path, metrics=["accuracy"], data_loader__args={"kind": "whole"})
    )
    trainer.model.train()
    trainer.log_step = 10**9
    groups = trainer._groups(1)
    sums = [torch.zeros((), dtype=torch.float64) for _ in range(2)]
    counts = []
    for _ in range(3):  # the first steps set up the optimizer's state and the sums
        batches = next(groups)
        with Operations() as ours:
            trainer._update(batches)
            trainer._after_update(1)
        with Operations() as bare:
            bare_step(trainer.model, trainer.optimizer, *batches[0], sums)
        counts.append((ours, bare))
    ours, bare = counts[-1]
    extra = ours.names - bare.names
    assert (
        set(extra) <= {"aten._to_copy.default", "aten.detach.default"} and sum(extra.values()) <= 3
    ), extra
    assert bare.names - ours.names == Counter()
    assert ours.allocations - bare.allocations <= 1


def counted(function, calls):
    def call(*args, **kwargs):
        calls.append(args)
        return function(*args, **kwargs)

    return call


def meta_gan(trainer):
    trainer.device = torch.device("meta")
    trainer.runtime = Runtime(trainer.device, trainer.settings)
    for part in (trainer.model, trainer.critic):
        part.to("meta")
    trainer.optimizer = torch.optim.Adam(trainer.model.parameters(), lr=0.01)
    trainer.critic_optimizer = torch.optim.Adam(trainer.critic.parameters(), lr=0.01)
    return trainer


def test_a_gan_s_update_runs_where_the_trainer_is(tmp_path):
    trainer = meta_gan(gan(tmp_path, trainer_class=GANTrainer))
    run(trainer)
    assert trainer.step == 4 and trainer.train_metrics._sums["critic"].is_meta


def test_a_gan_s_update_is_in_the_precision_of_the_run(tmp_path):
    seen = set()

    class Watching(GANTrainer):
        def _forward(self, batch):
            terms, output, target = super()._forward(batch)
            seen.add((output.dtype, self.critic(output).dtype))
            return terms, output, target

    trainer = gan(tmp_path, trainer_class=Watching)
    trainer.runtime._dtype = torch.bfloat16
    trainer.train()
    assert seen == {(torch.bfloat16, torch.bfloat16)}
