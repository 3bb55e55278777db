"""How errors are told: in a few plain lines, with what helps to find the mistake, and an exit code.

A mistake in the user's code for a batch (a loss, a metric, a network) is none of the template's
errors, yet needs no traceback either: the line that raised it and the shapes of the variables say
more. So the trainer's loops note these shapes on what they pass on (`note_batch`).
"""

import atexit
import inspect
import itertools
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from machinery import causes, distributed, secrets
from machinery.errors import ConfigError, DataError, LostError, Stopped, UserError
from machinery.files import ROOT

#: What of the project says nothing about a mistake in the user's code; `trainer` is theirs.
_OURS = {"base", "machinery", "logger", "utils", "parse_config.py", "train.py", "test.py"}
#: Set on an exception of the user's code for a batch: the shapes of the variables of the method
#: that says what a batch means, by name.
_BATCH_VARIABLES = "batch_variables"
_LONGEST_LINE = 300
#: What torch says of a worker that is lost: its signal handler raises it wherever the main process
#: happens to be.
_LOST_WORKER = re.compile(r"DataLoader worker \(pid.*")
#: What torch, gloo and NCCL say when a process does not answer, or never came.
_LOST_PROCESS = re.compile(
    r"[Tt]imed out (?:waiting|after) \d+ ?\w+(?: waiting for clients. \d+/\d+ clients joined)?"
    r"|wait timeout after \d+ms|Application timeout|Connection was likely closed|NCCL"
    r"|gloo.*?((?:Connection|Broken|Read) [a-z ]+)"
)
#: What the targets of a batch that is a dict are called.
_TARGETS = ("labels", "label", "targets", "target", "y")
#: What Python says of a method that is called with other arguments than it takes.
_WRONG_CALL = re.compile(r"(\w+)\.(\w+)\(\) (?:takes|got|missing) ")
#: What helps where weights that are shared out are used outside of their modules.
_OF_SHARING = "trainer.strategy: with fsdp call self.model(…), and nothing inside of it"
#: How many items of a container are described.
_ITEMS = 5


def note_batch(error: BaseException, owner: object) -> None:
    """Note the variables of the trainer's method that an exception of the user's code has left.

    It is the innermost of these methods that has some with a shape, such as `_forward`. What a line
    of the template's own files has raised is a bug of the template, and keeps its traceback.

    Args:
        error: raised while the trainer computed with a batch; it is to be raised again as it is.
        owner: of the methods, a trainer.

    Raises:
        ConfigError: the batch is a dict, and was taken for a pair; or weights are shared out, and
            used by what does not call the model.
    """
    if isinstance(error, UserError):
        return
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in frames:
        if frame.f_code.co_name == "_forward" and _takes_for_pair(frame):
            raise ConfigError(_means_of_dict(frame.f_locals["batch"])) from error
    if causes.is_of_sharing(error):
        raise ConfigError(f"{_OF_SHARING}: {str(error).partition(chr(10))[0]}") from error
    for line in causes.what_helps(error, owner):
        error.add_note(line)
    facts = vars(error)  # also of a class whose attributes cannot be set
    if _BATCH_VARIABLES in facts or _is_ours(frames[-1].f_code.co_filename):
        return
    facts[_BATCH_VARIABLES] = {}
    for frame in reversed(frames):
        if frame.f_locals.get("self") is owner and not facts[_BATCH_VARIABLES]:
            facts[_BATCH_VARIABLES] = _variables(frame)


def _takes_for_pair(frame: FrameType) -> bool:
    """Whether a method has written `data, target = batch`, and the batch is a dict."""
    batch = frame.f_locals.get("batch")
    names = frame.f_code.co_varnames
    if not isinstance(batch, Mapping) or not {"data", "target"} <= {*names}:
        return False
    keys = list(batch)
    # Of two keys they are taken for the data and the target; more don't fit.
    return len(keys) != 2 or frame.f_locals.get("data") == keys[0]


def _means_of_dict(batch: Mapping[Any, Any]) -> str:
    """That a batch is a dict, and the lines that say what it means."""
    keys = [key for key in batch if hasattr(batch[key], "shape")]
    target = keys[-1] if keys else "target"
    for name in _TARGETS:
        if name in keys:
            target = name
            break
    data = ", ".join(f"batch[{key!r}]" for key in keys if key != target)
    return (
        f"the trainer takes a batch for a pair (data, target), it is a dict {described(batch)}\n"
        "  say in trainer/trainer.py what it means, with the keys that your model takes:\n"
        "    def _forward(self, batch):\n"
        f"        output = self.model({data})\n"
        f"        return self.criterion(output, batch[{target!r}]), output, batch[{target!r}]"
    )


def note_place(error: BaseException, place: str) -> None:
    """Note which part of the user's has raised an exception between two batches, as a metric may.

    Args:
        error: it is to be raised again as it is.
        place: "in …".
    """
    if not isinstance(error, UserError):
        error.add_note(place)
        vars(error).setdefault(_BATCH_VARIABLES, {})


def _variables(frame: FrameType) -> dict[str, str]:
    """The variables of a method that are tensors, or hold some, described."""
    values = {name: value for name, value in frame.f_locals.items() if name != "self"}
    if len(values) > 2:
        values.pop("batch", None)  # what it holds has names of its own by then
    shapes = {}
    for name, value in values.items():
        try:
            text = described(value)
        except Exception:  # an object of the user's that cannot be asked, such as a lazy parameter
            continue
        if text:
            shapes[name] = text
    return shapes


def in_place_of(error: BaseException, other: Exception) -> Exception:
    """Another exception that is to be told in place of one: as raised there, by the same batch."""
    if _BATCH_VARIABLES in vars(error):
        vars(other)[_BATCH_VARIABLES] = vars(error)[_BATCH_VARIABLES]
    return other.with_traceback(error.__traceback__)


def in_plain_words(error: BaseException) -> BaseException:
    """An exception, or what it is a sign of: too little memory, a lost worker or process."""
    if isinstance(error, DataError | LostError) or not isinstance(error, Exception):
        return error
    found: BaseException = error
    if causes.is_of_memory(error):
        found = causes.out_of_memory(error)
    for each in _with_causes(error):
        text = str(each)
        worker = _LOST_WORKER.search(text)
        if worker is not None:
            found = DataError(lost_worker(worker[0]))
            break
        process = _LOST_PROCESS.search(text)
        if process is not None and isinstance(each, RuntimeError) and not distributed.alone():
            found = _lost_process(process[1] or process[0])
            break
    if found is not error:
        found.__cause__ = error
        found = found.with_traceback(error.__traceback__)
    return found


def _of_wrong_call(error: BaseException) -> BaseException:
    """An exception, or what it is a sign of: a method of the template's is given something else.

    A project may call it with the arguments that its own version had.
    """
    call = _WRONG_CALL.match(str(error))
    if call is None or not isinstance(error, TypeError):
        return error
    for module in list(sys.modules.values()):
        kind = vars(module).get(call[1])
        method = getattr(kind, call[2], None)
        if inspect.isclass(kind) and method is not None and _is_ours(inspect.getfile(method)):
            takes = f"{call[1]}.{call[2]} takes {_names_taken(method)} here"
            found = ConfigError(f"{told(error)}\n  {takes}")
            return found.with_traceback(error.__traceback__)
    return error


def _names_taken(method: Callable[..., Any]) -> inspect.Signature:
    """The arguments of a method, without their types."""
    signature = inspect.signature(method)
    names = []
    for parameter in signature.parameters.values():
        names.append(parameter.replace(annotation=parameter.empty))
    return signature.replace(parameters=names, return_annotation=signature.empty)


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and those that it was raised for or beside, the last first."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def is_of_lost_worker(error: BaseException) -> bool:
    """Whether an error of a loader is that of its connection to a worker, which is gone."""
    if not isinstance(error, FileNotFoundError | ConnectionError | EOFError):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).parts[-2:] == ("multiprocessing", "connection.py")


def lost_worker(what: str) -> str:
    """What torch says of a worker of a loader that is lost, with what can be done."""
    hint = "out of memory? try a smaller num_workers or batch_size; num_workers 0 shows an error"
    return f"a worker is lost: {what}\n  {hint} where it happens"


def _lost_process(why: str) -> LostError:
    why = why.replace("Application timeout", "Timed out").strip()
    what = "another process is lost, or has kept this one waiting too long"
    return LostError(f"{what} ({why})", silent="time" in why.lower())


def catch_user_errors() -> None:
    """Let the program end at an error that a user can cause with its message and exit code.

    There is no traceback then, nor at one who does not read to the end what is printed, as `head`.
    """
    sys.excepthook = end_command
    atexit.unregister(_reader_has_left)
    atexit.register(_reader_has_left)  # before Python prints what is left


def _reader_has_left(more: str = "") -> bool:
    """Whether nobody reads what this process prints, and `more`; then the rest goes nowhere."""
    try:
        print(more, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    except (OSError, ValueError, AttributeError):  # a full disk; closed; no output at all
        return False
    return False


def end_command(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Tell the exception that ends this process, and exit with its code; a `sys.excepthook`."""
    error = in_plain_words(_of_wrong_call(error))
    if isinstance(error, BrokenPipeError) and _reader_has_left("\n"):
        raise SystemExit(0)
    if not isinstance(error, Stopped):
        distributed.abandon()
    if isinstance(error, KeyboardInterrupt):
        raise SystemExit(130)
    if isinstance(error, Stopped):
        _tell(error, str(error), "")
        raise SystemExit(error.exit_code)
    if isinstance(error, UserError):
        _tell(error, str(error), _prefix())
        raise SystemExit(error.exit_code)
    if _BATCH_VARIABLES in vars(error) or _is_of_import(error):
        _tell(error, _told_in_full(error), _prefix())
        raise SystemExit(1)
    if not distributed.first_to_say(repr(error)):
        return
    whole = "".join(traceback.format_exception(error))
    if secrets.hidden(whole) != whole:
        sys.stderr.write(secrets.hidden(whole))
    else:
        sys.__excepthook__(kind, error, trace)


def _prefix() -> str:
    """What the message of an error begins with."""
    if distributed.is_main():
        return "error: "
    return f"error: process {distributed.rank()}: "


def _tell(error: BaseException, text: str, prefix: str) -> None:
    """Print the message of an error, unless another process has; before it, what was asked for."""
    if "--traceback" in sys.argv:
        sys.stderr.write(secrets.hidden("".join(traceback.format_exception(error))))
    try:
        # After a timeout, asking who was first might have to wait again.
        silent = isinstance(error, LostError) and error.silent
        if silent or distributed.first_to_say(text):
            print(printable(prefix + text), file=sys.stderr, flush=True)
    except OSError:  # a full disk, or a reader that has left
        pass


def _is_of_import(error: BaseException) -> bool:
    """Whether a file of the project, or what it wants to import, cannot be imported."""
    if isinstance(error, ImportError | SyntaxError):
        return True
    for frame, _ in traceback.walk_tb(error.__traceback__):
        is_script = frame.f_globals.get("__name__") == "__main__"
        if frame.f_code.co_name == "<module>" and not is_script:
            return _is_users(frame.f_code.co_filename)
    return False


def _told_in_full(error: BaseException) -> str:
    """A mistake in the user's code: what, where, for a batch with which shapes."""
    missing = causes.to_install(error)
    if missing:
        return missing
    lines = [told(error)]
    variables = vars(error).get(_BATCH_VARIABLES)
    if variables:
        lines.append(", ".join(f"{name} {shape}" for name, shape in variables.items()))
    # With a --run_id, the folder of the run is there already.
    if any(word.startswith("--run_id") for word in sys.argv):
        lines.append("the run's info.log shows all of it")
    else:
        lines.append("--traceback shows all of it")
    return "\n  ".join(lines)


def told(error: BaseException, anywhere: bool = True) -> str:
    """An exception with its message, and the last line of the user's own code that it has passed.

    Args:
        anywhere: where it has passed none, name the line that raised it.
    """
    lines = _message(error)
    if isinstance(error, UserError):  # it says what is wrong, wherever the template has raised it
        anywhere = False
    frame = _frame_to_name(error, anywhere)
    if frame is not None:
        lines.append(f"at {frame.filename}:{frame.lineno}: {frame.line}")
    return secrets.hidden("\n  ".join(lines))


def _message(error: BaseException) -> list[str]:
    """One or two lines that say what an exception is."""
    if isinstance(error, SyntaxError):
        return [f"{type(error).__name__}: {error.msg}"]
    if isinstance(error, UserError):
        return [str(error), *getattr(error, "__notes__", ())]
    # Hidden before it is cut: what is left of a secret is a secret.
    text = secrets.hidden("".join(traceback.format_exception_only(error))).strip()
    lines = [line[:_LONGEST_LINE] for line in text.splitlines()]
    # torch quotes the traceback of a worker in its message, and its last line says what happened.
    if "Traceback" in "".join(lines[:2]):
        return [lines[0], lines[-1]]
    return lines[:2]


def _frame_to_name(error: BaseException, anywhere: bool) -> traceback.FrameSummary | None:
    """The last line of the user's that an exception has passed, else that which raised it."""
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        text = (error.text or "").strip()
        return traceback.FrameSummary(error.filename, error.lineno, "<module>", line=text)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_users(frame.filename)]
    if own:
        return own[-1]
    if anywhere and frames:
        return frames[-1]
    return None


def _is_users(file: str) -> bool:
    """Whether a source file is the user's own, and may hold their mistake."""
    top = _top(file)
    return top is not None and top not in _OURS


def _is_ours(file: str) -> bool:
    """Whether a source file is one of the template's that nobody has to edit."""
    return _top(file) in _OURS


def _top(file: str) -> str | None:
    """The project's file or folder that a source file is in; None if it is not the project's."""
    path = Path(file)
    if not path.is_relative_to(ROOT):
        return None
    parts = path.relative_to(ROOT).parts
    if "site-packages" in parts:  # an environment within the project's folder
        return None
    return parts[0]


def described(value: Any, depth: int = 3) -> str:
    """Shape and type of a tensor, and of those in containers, the first few; else nothing."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and isinstance(value.shape, tuple):
        return f"{[*value.shape]} {str(value.dtype).removeprefix('torch.')}"
    if depth == 0:
        return ""
    if type(value).__name__ == "PackedSequence":  # torch's
        return f"packed {described(value.data)}"
    texts = []
    for key, item in itertools.islice(_items(value), _ITEMS):
        text = described(item, depth - 1)
        if isinstance(key, str):
            text = f"{key}: {text}"
        texts.append(text)
    if any(texts):
        return f"({', '.join(texts)})"
    return ""


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    """What a container holds, by key or number."""
    if isinstance(value, Mapping):
        return value.items()
    if hasattr(value, "_fields"):  # a named tuple
        return zip(value._fields, value, strict=True)
    if type(value) in (list, tuple):
        return enumerate(value)
    return ()


def printable(text: str) -> str:
    """A text without what would command a terminal, and without secrets."""
    return "".join(_harmless(char) for char in secrets.hidden(text))


def _harmless(char: str) -> str:
    is_control = unicodedata.category(char).startswith("C")
    if is_control and char not in "\n\t":
        return "?"
    return char
