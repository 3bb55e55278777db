"""Streams that say where they stand: each worker of each process goes on there after a resume.

The state of a stream travels with the batch that is read from there: what workers have fetched
ahead moves nothing that is saved. As a run goes on, each worker reads its last batch again: if it
is another, the state leaves something out, and the worker reads all up to its place instead.
"""

import itertools
import pickle
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import IterableDataset, IterDataPipe, get_worker_info

from machinery import distributed
from machinery.errors import DataError, UserError
from machinery.order import seeding
from machinery.plain_data import plain

#: Of a value so many items are looked at, evenly spread.
_ITEMS = 1000
#: So deep are objects looked into.
_DEPTH = 3
_OTHER = (
    "from a state that it has given it goes on with other samples, so it was read from the "
    "beginning: count before yield, and draw what is of a pass, not of a sample, from a seed of "
    "its own"
)
_NEITHER = (
    "read from the beginning it gives other samples than before, too, so the run is not the "
    "unbroken one: let load_state_dict set all that an iteration begins with"
)
_AT_ITS_END = (
    "it is at its end before the place where it stood: let load_state_dict set all that an "
    "iteration begins with"
)


def says_where(dataset: Any) -> bool:
    """Whether a stream has the two methods of one that says where it stands."""
    if isinstance(dataset, IterDataPipe):  # torch's workers seed it and share it out themselves
        return False
    return hasattr(dataset, "state_dict") and hasattr(dataset, "load_state_dict")


class Stood(NamedTuple):
    """A batch, and where the worker stands that has made it."""

    batch: Any
    worker: int
    #: How many batches of the pass the worker has made.
    batches: int
    #: Of its copy of the dataset before this batch, pickled; None where nobody wants it, or it is
    #: not to be relied on.
    state: bytes | None
    #: What the batch is told from others by.
    mark: int
    #: What is to be told of the stream.
    why: str


class Reached(NamedTuple):
    """How far a worker has come: as in `Stood`."""

    batches: int
    state: bytes
    mark: int


class Start(NamedTuple):
    """How a pass over a stream begins, or is gone on with."""

    #: Of the pass, which all that is drawn is seeded from; the number of the pass comes last.
    place: tuple[int | str, ...]
    #: The worker that gives the first batch.
    turn: int
    #: What the workers have reached; those that are not among them begin.
    reached: Mapping[int, Reached]
    drop_last: bool
    #: Whether states are wanted.
    asks: bool


class Source(IterableDataset[Stood | UserError | None]):
    """The finished batches of a stream, in whichever worker, each with where the stream stands.

    Args:
        dataset: the stream.
        batch_size: samples in a batch.
        collate_fn: makes a batch of a list of samples.
    """

    def __init__(
        self, dataset: Any, batch_size: int, collate_fn: Callable[[list[Any]], Any]
    ) -> None:
        self.dataset = dataset
        self._batch_size = batch_size
        self._collate_fn = collate_fn
        # As it is before anything is read: each pass begins from there.
        self._at_first = _state_of(dataset)
        self._start: Start
        # Of the iterations in this process the last, and whether another has read beside it.
        self._iteration = 0
        self._mixed = False

    def begin(self, start: Start) -> None:
        """Say how the next iteration begins."""
        self._start = start
        self._iteration += 1
        self._mixed = False

    def __iter__(self) -> Iterator[Stood | UserError | None]:
        try:
            yield from self._standing()
        except UserError as error:  # torch would put the traceback of a worker into its message
            yield error

    def _standing(self) -> Iterator[Stood | None]:
        """The batches; None where a worker has no turn."""
        worker, _ = _here()
        start = self._start
        iteration = self._iteration
        if worker < start.turn:  # its turn has been before: torch begins with the first worker
            yield None
        reached = start.reached.get(worker)
        samples, why = self._behind(reached)
        done = 0
        state: bytes | None = self._at_first
        if reached is not None:
            done = reached.batches
            state = self._state()
        for number in itertools.count(done):
            some = self._read(samples, number)
            whole = len(some) == self._batch_size
            if not some or (start.drop_last and not whole):
                return
            mark = _mark(some)  # before anybody changes them
            batch = self._collate_fn(some)
            if iteration != self._iteration:
                self._mixed = True
                why = "two iterations read it at a time"
            after = self._state()
            if self._mixed or not start.asks:
                state = None
            yield Stood(batch, worker, number + 1, state, mark, why)
            state = after
            if not whole:
                return

    def _behind(self, reached: Reached | None) -> tuple[Iterator[Any], str]:
        """The samples that come behind what a worker has reached, and what is to be told of it."""
        if reached is None:
            return self._samples_from(self._at_first), ""
        samples = self._gone_back_to(reached)
        if samples is not None:
            return samples, ""
        samples = self._samples_from(self._at_first)
        some: list[Any] = []
        for number in range(reached.batches):
            some = self._read(samples, number)
        if not some:
            raise DataError(f"{type(self.dataset).__name__}: {_AT_ITS_END}")
        if _mark(some) != reached.mark:
            return samples, _NEITHER
        return samples, _OTHER

    def _state(self) -> bytes | None:
        """The state of the stream, if it is wanted."""
        if self._start.asks:
            return _state_of(self.dataset)
        return None

    def _read(self, samples: Iterator[Any], number: int) -> list[Any]:
        """The samples of a batch of this worker, which draw what belongs to its place."""
        worker, workers = _here()
        turns = number * workers + worker
        place = turns * distributed.size() + distributed.rank()
        seeding.seed_everything(*self._start.place, place)
        return list(itertools.islice(samples, self._batch_size))

    def _samples_from(self, state: bytes | None) -> Iterator[Any]:
        """The samples of the pass from a state on."""
        assert state is not None
        self.dataset.load_state_dict(pickle.loads(state))  # a process of ours has pickled it
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(self._start.place[-1])
        seeding.seed_everything(*self._start.place)
        return iter(self.dataset)

    def _gone_back_to(self, reached: Reached) -> Iterator[Any] | None:
        """The samples that come behind the last batch, which is read again; None if it is another.

        What goes wrong here goes wrong from the beginning, too, or is the state's fault.
        """
        try:
            samples = self._samples_from(reached.state)
            some = self._read(samples, reached.batches - 1)
        except Exception:
            return None
        if _mark(some) != reached.mark:
            return None
        return samples


def _here() -> tuple[int, int]:
    """The number of this worker, and how many there are; a process without workers is one."""
    info = get_worker_info()
    if info is None:
        return 0, 1
    return info.id, info.num_workers


def start_worker_of(own: Callable[[int], None] | None, worker: int) -> None:
    """Let a worker's own `worker_init_fn` find the stream itself where torch says it is."""
    info: Any = get_worker_info()
    object.__setattr__(info, "dataset", info.dataset.dataset)  # torch refuses plain assignments
    if own is not None:
        own(worker)


def _state_of(dataset: Any) -> bytes:
    """The state of a stream as it is now, whatever becomes of it."""
    kind = type(dataset).__name__
    return pickle.dumps(plain(dataset.state_dict(), f"the state_dict of a {kind}"))


def _mark(samples: list[Any]) -> int:
    """What a batch is told from others by: some of the numbers of its first and last samples."""
    mark = len(samples)
    for value in _leaves([samples[:1], samples[-1:]], _DEPTH):
        mark = zlib.crc32(_some_of(value), mark)
    return mark


def _leaves(value: Any, depth: int) -> Iterator[Any]:
    """What is in a value, also in objects that are no containers."""
    for leaf in tree_leaves(value):
        inner: Any = None
        if isinstance(leaf, np.ndarray) and leaf.dtype == object:
            inner = leaf.reshape(-1).tolist()
        elif isinstance(leaf, torch.Tensor) or hasattr(leaf, "tobytes"):
            inner = None  # it says itself what it holds
        elif hasattr(leaf, "__dict__"):
            inner = dict(vars(leaf))
        if inner and depth > 0:
            yield from _leaves(inner, depth - 1)
        else:
            yield leaf


def _some_of(value: Any) -> bytes:
    """Some of what a value holds."""
    if isinstance(value, torch.Tensor) and value.layout == torch.strided:
        value = value.detach().reshape(-1)[:: max(value.numel() // _ITEMS, 1)].tolist()
    elif isinstance(value, np.ndarray) and value.dtype != object:
        value = value.reshape(-1)[:: max(value.size // _ITEMS, 1)].tolist()
    elif isinstance(value, bytes):
        return value
    elif hasattr(value, "tobytes"):  # NumPy's numbers, pictures
        return bytes(value.tobytes())
    elif not isinstance(value, bool | int | float | complex | str):
        value = type(value).__name__
    return repr(value).encode()


class Course:
    """How a process has come through a pass.

    A trainer fetches the batches of an update before it takes any of them: as many may be saved
    that are not trained on.

    Args:
        epoch: of the pass.
        first: how many batches had been handed out.
        turn, reached: as in `Start`.
        workers: how many there are; without any, one.
    """

    def __init__(
        self, epoch: int, first: int, turn: int, reached: Mapping[int, Reached], workers: int
    ) -> None:
        self.epoch = epoch
        self.first = first
        self.turn = turn
        self.reached = dict(reached)
        self._workers = workers
        #: What was handed out since.
        self.later: deque[tuple[int, Reached]] = deque()

    def add(self, stood: Stood, kept: int) -> None:
        """One more batch has been handed out; the last `kept` may not have been trained on."""
        assert stood.state is not None
        reached = Reached(stood.batches, stood.state, stood.mark)
        self.later.append((stood.worker, reached))
        while len(self.later) > kept:
            self._pass_by(*self.later.popleft())

    def _pass_by(self, worker: int, reached: Reached) -> None:
        self.first += 1
        self.turn = (worker + 1) % self._workers
        self.reached[worker] = reached

    def at(self, first: int) -> "Course | None":
        """The course up to a batch; None if it is not known there."""
        if not self.first <= first <= self.first + len(self.later):
            return None
        course = Course(self.epoch, self.first, self.turn, self.reached, self._workers)
        for worker, reached in itertools.islice(self.later, first - self.first):
            course._pass_by(worker, reached)
        return course

    def state_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "epoch": self.epoch,
            "first": self.first,
            "turn": self.turn,
            "reached": [_plain(*each) for each in self.reached.items()],
            "later": [_plain(*each) for each in self.later],
        }


def _plain(worker: int, reached: Reached) -> list[Any]:
    return [worker, reached.batches, pickle.loads(reached.state), reached.mark]


def _restored(saved: Mapping[str, Any], workers: int) -> Course:
    """The course of a saved state."""
    reached = {worker: _packed(*rest) for worker, *rest in saved["reached"]}
    course = Course(saved["epoch"], saved["first"], saved["turn"], reached, workers)
    for worker, *rest in saved["later"]:
        course.later.append((worker, _packed(*rest)))
    return course


def _packed(batches: int, state: Any, mark: int) -> Reached:
    return Reached(batches, pickle.dumps(state), mark)


class Places:
    """Where the workers of all processes stand in a stream; a part of the checkpoints.

    Args:
        workers: of each process.
        batch_size: samples in a batch.
    """

    def __init__(self, workers: int, batch_size: int) -> None:
        #: Batches of an update.
        self.kept = 1
        #: Why no place is known.
        self.why = "nothing says where it stood"
        self._workers = max(workers, 1)
        self._of = {"processes": distributed.size(), "workers": workers, "batch_size": batch_size}
        self._course: Course | None = None

    def at(self, epoch: int, first: int) -> Course | None:
        """The course up to a batch of a pass; None if it is not known."""
        if self._course is None or self._course.epoch != epoch:
            return None
        return self._course.at(first)

    def begin(self, epoch: int, course: Course | None) -> Course:
        """A pass begins, or is gone on with from a place."""
        if course is None:
            course = Course(epoch, 0, 0, {}, self._workers)
        self._course = course
        return course

    def add(self, course: Course, stood: Stood) -> None:
        """One more batch has been handed out on a course."""
        if course is not self._course:  # another iteration has begun, perhaps of the same dataset
            return
        if stood.state is None:
            self._course = None
            self.why = stood.why
            return
        course.add(stood, self.kept)

    def state_dict(self) -> dict[str, Any]:
        """The places of all processes; all of them have to ask."""
        course = None
        if self._course is not None:
            course = self._course.state_dict()
        return {"of": dict(self._of), "courses": distributed.gathered(course)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration go on where the saved one stood, if as many take part in it."""
        self._course = None
        other = [
            f"{name} {state['of'][name]} -> {value}"
            for name, value in self._of.items()
            if state["of"][name] != value
        ]
        if other:
            self.why = ", ".join(other)
            return
        course = state["courses"][distributed.rank()]
        if course is not None:
            self._course = _restored(course, self._workers)

    def nonsense(self, saved: Any) -> str:
        """What in a saved state is none; empty if all is well."""
        missing = [name for name in ("of", "courses") if name not in saved]
        if missing:
            return f"its state has no {', '.join(missing)}"
        return ""
