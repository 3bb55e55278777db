"""The order of very many samples: the processes of a machine share one copy, and nothing stays."""

import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import ranks
from machinery import distributed
from machinery.distributed import Member
from machinery.order import seeding, shared_order
from machinery.order.batches import PassOrder

N = 50_001
PLACE = (7, "train", "order", 3)


def acquainted(store, machine="here"):
    """As processes are that have joined, which tests let connect in another way."""
    shared_order.LEAST = 1000
    distributed.platform.node = lambda: machine
    distributed.world.store = dist.FileStore(str(store), distributed.size())
    distributed.world.members = distributed.gathered(Member(machine, os.getpid()))


def private():
    """How many kB of memory files are mapped here, and how many of them no other process has."""
    found = {"Size": 0, "Private": 0}
    mine = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            mine = "memfd:" in line
        elif mine and name == "Size:":
            found["Size"] += int(rest[0])
        elif mine and name.startswith("Private_"):
            found["Private"] += int(rest[0])
    return found


def drawn(store, machines):
    """The order of a process, what it maps, and whether it is the same when it is asked again."""
    acquainted(store, machines[distributed.rank()])
    order = shared_order.permutation(N, *PLACE)
    total = int(order.sum())  # so that it is there
    dist.barrier()
    mapped = private()
    dist.barrier()
    order[distributed.rank()] = -1  # what is written to is a copy
    dist.barrier()
    return order.tolist(), total, mapped


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no memory files on this platform")
def test_the_processes_of_a_machine_have_one_copy(tmp_path):
    expected = seeding.permutation(N, *PLACE).tolist()
    found = ranks.run(tmp_path, 3, drawn, tmp_path / "store", ["a", "a", "a"])
    for rank, (order, total, mapped) in enumerate(found):
        assert total == sum(expected)
        assert order == [*expected[:rank], -1, *expected[rank + 1 :]]
        assert mapped["Size"] >= 4 * N / 1024 and mapped["Private"] == 0


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no memory files on this platform")
def test_other_machines_have_their_own(tmp_path):
    for _, total, mapped in ranks.run(tmp_path, 2, drawn, tmp_path / "store", ["a", "b"]):
        assert total == sum(range(N)) and mapped["Size"] == 0


def late(store):
    """The second process asks when the first has let go of it."""
    acquainted(store)
    order = None
    if distributed.rank() == 0:
        order = shared_order.permutation(N, *PLACE)
        del order
    dist.barrier()
    order = shared_order.permutation(N, *PLACE)
    return order.tolist(), private()["Size"]


def test_who_comes_too_late_draws_its_own(tmp_path):
    for order, mapped in ranks.run(tmp_path, 2, late, tmp_path / "store"):
        assert order == seeding.permutation(N, *PLACE).tolist() and mapped == 0


def failing(store):
    """The first process fails while it draws."""
    acquainted(store)
    if distributed.rank() == 0:
        shared_order.seeding.permute = None
        with pytest.raises(TypeError):
            shared_order.permutation(N, *PLACE)
        dist.barrier()
        return None
    dist.barrier()
    return shared_order.permutation(N, *PLACE).tolist()


def test_a_failure_to_draw_keeps_nobody_waiting(tmp_path):
    _, order = ranks.run(tmp_path, 2, failing, tmp_path / "store")
    assert order == seeding.permutation(N, *PLACE).tolist()


def killed(store):
    """All have it, and the first, who has drawn it, is killed."""
    acquainted(store)
    if distributed.rank() == 0:
        shared_order.permutation(N, *PLACE)
    dist.barrier()
    order = shared_order.permutation(N, *PLACE)
    dist.barrier()
    if distributed.rank() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    first = Path(f"/proc/{distributed.world.members[0].pid}/fd")
    while first.exists() and os.access(first, os.R_OK) and list(first.iterdir()):
        pass
    assert order.tolist() == seeding.permutation(N, *PLACE).tolist()
    print("whole")
    os._exit(0)


def test_a_kill_takes_it_from_nobody(tmp_path):
    codes, outputs = ranks.finish(*ranks.start(tmp_path, 2, killed, tmp_path / "store"))
    assert codes == [-9, 0] and "whole" in outputs[1], outputs


class Many:
    def __len__(self):
        return 9001


def batches(store):
    """The batches of two passes, of which the first is gone on with."""
    acquainted(store)
    order = PassOrder(Many(), 10, True, 5, "train")
    found = []
    for epoch, first in ((1, 0), (1, 450), (2, 0)):
        order.take(epoch, first, first + 450)
        found += [index.indices.tolist() for index in order]
        if not distributed.alone():  # as where all take part in each update
            dist.barrier()
    return found, private()["Size"] > 0


def test_a_pass_that_goes_on_in_the_next_epoch_is_shared_still(tmp_path):
    parts = ranks.run(tmp_path, 2, batches, tmp_path / "store")
    (alone,) = ranks.run(tmp_path, 1, batches, tmp_path / "other")
    assert [mapped for _, mapped in parts] == [hasattr(os, "memfd_create")] * 2
    assert not alone[1]
    for k, whole in enumerate(alone[0]):
        assert [parts[0][0][k], parts[1][0][k]] == [whole[0::2], whole[1::2]]


def test_an_order_of_another_name_is_another():
    order = PassOrder(Many(), 10, True, 5, "train")
    before, shared_order.LEAST = shared_order.LEAST, 1
    try:
        first = order.of_pass(1)
        assert order.of_pass(1) is first
        order.name = "other"
        assert not torch.equal(order.of_pass(1), first)
    finally:
        shared_order.LEAST = before
