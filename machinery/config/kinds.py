"""What the components of a config's sections are, and those inside the arguments of a loader."""

import importlib
import re
from typing import NamedTuple

from machinery.config import installed
from machinery.config.source import dotted
from machinery.config.values import KeyPath


class Kind(NamedTuple):
    """What the components of a section are."""

    #: One of them, in an error message.
    words: str
    #: Torch's class that they must be of, as "module:name"; it is imported when it is needed.
    of_torch: str = ""
    #: The program's own class that they must be of; whoever looks them up has it.
    required: type | None = None
    #: Others than that class will do, if they have what a schedule needs.
    schedules: bool = False
    #: Arguments that the program gives where the config does not.
    filled: tuple[str, ...] = ()
    #: Torch's class that parts of installed packages must be of, if it is another.
    of_packages: str = ""
    #: Functions that make one will not do.
    only_classes: bool = False
    #: How many arguments the program gives them first: the parameters, the optimizer.
    given: int = 0
    #: Functions are called with more arguments than the config gives.
    called_later: bool = False
    #: Torch's class itself will do, not only what derives from it.
    itself: bool = False
    #: Nobody knows what it is to be: a section of the user's own.
    anything: bool = False
    #: Of a part of the data: instances have one of these methods, if the class is another.
    methods: tuple[str, ...] = ()
    #: Of a part of the data: where those of installed packages are defined.
    homes: tuple[str, ...] = ()

    @property
    def is_part(self) -> bool:
        """Whether it is of what a loader is made of."""
        return bool(self.methods)

    def base(self) -> type | None:
        """The class that they must be of; None: anything that can be called will do."""
        if self.required is not None:
            return self.required
        if not self.of_torch:
            return None
        return _class(self.of_torch)

    def wanted(self) -> installed.Wanted | None:
        """What a part of an installed package must be; None: it must be the project's own."""
        if self.is_part:
            base = self.base()
            return installed.Wanted(self.words, base, False, False, self.methods, self.homes)
        named = self.of_packages or self.of_torch
        if self.required is not None or not named:
            return None
        return installed.Wanted(self.words, _class(named), self.called_later, self.schedules)


def _class(name: str) -> type:
    """A class of torch, as "module:name"."""
    module, name = name.split(":")
    return getattr(importlib.import_module(module), name)


_LOADER = Kind("data loader", of_torch="torch.utils.data:DataLoader", itself=True)
#: The kinds of the sections; that of one inside a section has a dot.
KINDS = {
    "arch.adapter": Kind(
        "adapter", of_torch="torch.nn:Module", of_packages="peft:PeftConfig", given=1
    ),
    "arch": Kind("model", of_torch="torch.nn:Module"),
    "data_loader": _LOADER,
    "valid_data_loader": _LOADER,
    "test_data_loader": _LOADER,
    "optimizer": Kind("optimizer", of_torch="torch.optim:Optimizer", given=1),
    "lr_scheduler": Kind(
        "scheduler",
        of_torch="torch.optim.lr_scheduler:LRScheduler",
        schedules=True,
        filled=("total_steps",),
        given=1,
    ),
    "loss": Kind("loss", of_packages="torch.nn:Module", called_later=True),
    "metrics": Kind("metric", of_packages="torch.nn:Module", called_later=True),
    "trainer.type": Kind("trainer", only_classes=True),
    "trainer.trackers": Kind("tracker", only_classes=True, given=1),
}


_CALLED = ("__call__",)
_TRANSFORMS = ("torchvision.transforms", "albumentations")
_SAMPLER = Kind(
    "sampler", of_torch="torch.utils.data:Sampler", methods=("__iter__",), homes=installed.TORCHS
)
_DATASET = Kind(
    "dataset",
    of_torch="torch.utils.data:Dataset",
    methods=("__getitem__",),
    homes=("torchvision.datasets", *installed.TORCHS),
)
#: The kinds of what is named inside the arguments of a loader, by the names of these.
PARTS = {
    "dataset": _DATASET,
    "datasets": _DATASET,
    "sampler": _SAMPLER,
    "batch_sampler": _SAMPLER,
    "collate_fn": Kind("collate function", called_later=True, methods=_CALLED),
}
_TRANSFORM = Kind("transform", called_later=True, methods=_CALLED, homes=_TRANSFORMS)


def holds_parts(path: KeyPath) -> bool:
    """Whether a component is a data loader, inside whose arguments others may be named.

    Of evaluations there may be several, by name.
    """
    return "data_loader" in str(path[0]) and len(path) < 3 and "args" not in path


def kind_of(path: KeyPath, required: type | None = None) -> Kind:
    """The kind of the component at `path`.

    Args:
        required: the program's own class that it must be of.
    """
    if "data_loader" in str(path[0]) and "args" in path[1:]:
        names = [key for key in path if isinstance(key, str)]
        return PARTS.get(names[-1], _TRANSFORM)
    kind = Kind(str(path[0]), anything=True)
    for section, known in KINDS.items():
        # optimizer_D and arch2, of the user's own, are some, too.
        if re.match(rf"{re.escape(section)}(?:$|[_.0-9])", dotted(path)):
            kind = known
            break
    if required is not None:
        return kind._replace(required=required)
    return kind
