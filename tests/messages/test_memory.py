"""Too little memory is told in two lines, and what these say trains."""

import pytest
import torch

import tiny
from machinery.errors import UserError
from trainer import Trainer

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 3.99 GiB of "
    "which 1.00 GiB is free. Including non-PyTorch memory, this process has 2.00 GiB in use."
)


PLAIN = {"norm": False, "dropout": 0.0}


class Narrow(Trainer):
    """On a device that has no memory for more than four samples."""

    error: Exception = torch.OutOfMemoryError(CUDA)

    def _forward(self, batch):
        if self.model.training and len(batch[0]) > 4:
            raise self.error
        return super()._forward(batch)


class Python(Narrow):
    error = MemoryError()


class OnCpu(Narrow):
    def _forward(self, batch):
        if self.model.training and len(batch[0]) > 4:
            torch.empty(10**15)
        return super()._forward(batch)


@pytest.mark.parametrize(
    "kind, said",
    [
        (Narrow, "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB\n"),
        (Python, "out of memory: MemoryError\n"),
        (OnCpu, "you tried to allocate 4000000000000000 bytes"),
    ],
)
def test_what_it_says_trains_the_same(tmp_path, kind, said):
    config = tiny.settings(tmp_path / "a", trainer__epochs=2, arch__args=PLAIN)
    with pytest.raises(UserError) as caught:
        tiny.train(config, trainer_class=kind)
    told = str(caught.value)
    assert said in told and len(told.splitlines()) == 2 and caught.value.exit_code == 1
    assert "half data_loader.args.batch_size and twice trainer.accumulate train the same" in told
    arguments = {**config["data_loader"]["args"], "batch_size": 4}
    changes = {"trainer__accumulate": 2, "data_loader__args": arguments}
    half = tiny.settings(tmp_path / "b", trainer__epochs=2, arch__args=PLAIN, **changes)
    trained = tiny.train(half, trainer_class=kind)
    whole = tiny.train(config)
    for ours, theirs in zip(trained.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
