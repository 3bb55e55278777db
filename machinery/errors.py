"""The errors a user can cause, each with the exit code that schedulers and scripts may rely on.

Raise one of these with one to three plain lines (what, where, what is safe, what to do) and the
command prints them without a traceback. Any other exception is a bug: its traceback is kept and the
exit code is 1. How they are told stands in `machinery.telling`.
"""


class UserError(Exception):
    """Base of the errors below; `exit_code` is the exit code of the command."""

    exit_code = 1


class ConfigError(UserError):
    """The command line or the config is wrong."""

    exit_code = 2


class DataError(UserError):
    """The data cannot be read, or is not what the config says."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint is damaged, foreign, or does not fit."""

    exit_code = 4


class NonFiniteError(UserError):
    """The loss or the monitored value became NaN or infinite."""

    exit_code = 5


class StorageError(UserError):
    """A file could not be written."""

    exit_code = 6


class LostError(UserError):
    """Another process has ended, or does not answer (`silent`)."""

    def __init__(self, message: str, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class Stopped(BaseException):
    """A signal asked the run to stop, and it has saved what it had.

    No `except Exception` on its way catches it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
