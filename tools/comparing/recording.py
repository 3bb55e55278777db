"""Records what a training does, for tools/same.py: batches, losses, gradients and weights.

It is a script: `python recording.py FILE UPDATES ROOT WORDS…` runs ROOT/train.py with these words,
writes a line of JSON for each event, and leaves after so many updates. It knows torch alone, so
that the code of any commit can be recorded.
"""

import hashlib
import json
import os
import runpy
import sys
from typing import IO, Any


def digest_of(tensor: Any) -> str:
    """A short hash of a tensor's type, shape and bits."""
    import torch

    plain = tensor.detach().cpu().contiguous()
    found = hashlib.blake2b(f"{plain.dtype} {list(plain.shape)}".encode(), digest_size=8)
    found.update(memoryview(plain.reshape(-1).view(torch.uint8).numpy()))
    return found.hexdigest()


class Recorder:
    """Writes events to a file.

    Args:
        file: for lines of JSON.
        updates: after so many, the process ends.
    """

    def __init__(self, file: IO[str], updates: int) -> None:
        self.file = file
        self.updates = updates
        self.done = 0
        #: How many modules have begun a forward pass within each other.
        self.depth = 0
        #: Of the parameters, by their ids, which stay while they are held here.
        self.names: dict[int, str] = {}
        self.held: list[Any] = []

    def attach(self) -> None:
        """Listen to whatever torch does in this process."""
        import torch
        from torch.nn.modules import module
        from torch.optim import optimizer

        module.register_module_forward_pre_hook(self._before_forward)
        module.register_module_forward_hook(self._after_forward, always_call=True)
        optimizer.register_optimizer_step_pre_hook(self._before_step)
        optimizer.register_optimizer_step_post_hook(self._after_step)
        kind: Any = torch.Tensor
        backward = kind.backward

        def noted(tensor: Any, *args: Any, **kwargs: Any) -> None:
            self._write("loss", {"loss": digest_of(tensor)}, value=repr(tensor.tolist()))
            backward(tensor, *args, **kwargs)

        kind.backward = noted

    def _write(self, event: str, digests: dict[str, str], **more: str) -> None:
        line = {"event": event, "update": self.done + 1, "digests": digests, **more}
        self.file.write(json.dumps(line) + "\n")

    def _before_forward(self, module: Any, args: Any) -> None:
        self.depth += 1
        if self.depth > 1 or not any(True for _ in module.parameters()):
            return
        self._meet(module)
        digests = {}
        for number, value in enumerate(args):
            if hasattr(value, "detach"):
                digests[f"input {number}"] = digest_of(value)
        self._write("batch", digests, of=type(module).__name__)

    def _after_forward(self, module: Any, args: Any, returned: Any) -> None:
        self.depth -= 1

    def _meet(self, module: Any) -> None:
        """Note the names of a network's parameters and its first weights, once."""
        new = {}
        for name, parameter in module.named_parameters():
            if id(parameter) not in self.names:
                self.names[id(parameter)] = name
                self.held.append(parameter)
                new[name] = digest_of(parameter)
        if new:
            self._write("initial weight", new)

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        gradients = {}
        for name, parameter in self._parameters(optimizer):
            if parameter.grad is not None and not parameter.grad.is_sparse:
                gradients[name] = digest_of(parameter.grad)
        self._write("gradient", gradients)

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        weights = {name: digest_of(value) for name, value in self._parameters(optimizer)}
        self._write("weight", weights)
        self.done += 1
        if self.done == self.updates:
            self.file.flush()
            os._exit(0)  # nothing of this run is kept

    def _parameters(self, optimizer: Any) -> list[tuple[str, Any]]:
        """The parameters of an optimizer by name, or by number where they have none."""
        found: list[tuple[str, Any]] = []
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                number = f"parameter {len(found)}"
                found.append((self.names.get(id(parameter), number), parameter))
        return found


def main() -> None:
    """Run train.py, and record it."""
    file, updates, root, *words = sys.argv[1:]
    os.chdir(root)
    sys.path[0] = root
    sys.argv = [os.path.join(root, "train.py"), *words]  # noqa: PTH118 - as Python has it
    with open(file, "w", encoding="utf-8") as out:
        Recorder(out, int(updates)).attach()
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
