"""How many batches an epoch has: a pass over the data as it is when the epoch begins, or a number.

Epoch e is pass e then, whatever the lengths of the passes before it.
"""

from typing import Any

from machinery.errors import DataError
from machinery.order.passes import tell_samplers
from machinery.telling import note_place


class EpochLength:
    """Batches in an epoch.

    Args:
        batches: as many, if the user says so; else a pass over the data.
        loader: of the training data; None where nothing trains.
    """

    def __init__(self, batches: int | None, loader: Any) -> None:
        self._given = batches is not None
        #: Of an epoch of the data as it is at the start; 0: nobody knows.
        self.first = batches or 0
        if batches is None and loader is not None:
            self.first = len(loader)
        self._last = self.first
        # The loader, and how long a pass over it was when its first epoch began.
        self._loader: Any = None
        self._pass = 0

    def at(self, epoch: int, known: int, loader: Any, interrupted: int | None) -> int:
        """Batches in an epoch that begins, or is gone on with.

        Args:
            known: as the trainer has it, who may have set it himself.
            interrupted: how many they were when it was interrupted; None if it begins.

        Raises:
            DataError: the length of the data has changed where that makes no sense.
        """
        if self._given or known != self._last:
            self._check_pass(loader)
            return known
        if hasattr(loader, "tell_samplers"):
            loader.tell_samplers(epoch)
        else:
            tell_samplers(loader, epoch)
        self._last = _length_of(loader)
        if interrupted not in (None, self._last):
            what = f"epoch {epoch} had {interrupted} batches when it was interrupted"
            hint = "what changes the data has to depend on the epoch alone"
            raise DataError(f"{what}, and has {self._last} now: {hint}")
        return self._last

    def _check_pass(self, loader: Any) -> None:
        """Refuse passes of different lengths, which epochs of one length would cut anywhere."""
        if loader is not self._loader:
            self._loader = loader
            self._pass = _length_of(loader)
        if _length_of(loader) != self._pass:
            what = f"the data's length has changed: {self._pass} -> {len(loader)} batches in a pass"
            raise DataError(f"{what}, where trainer.len_epoch is set: leave len_epoch out")


def _length_of(loader: Any) -> int:
    """Batches in a pass, which the user's data says."""
    try:
        return len(loader)
    except Exception as error:
        note_place(error, "in the length of the data")
        raise
