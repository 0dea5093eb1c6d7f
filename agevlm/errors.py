"""Errors that a user can act on.

Every error of this family says what is wrong, where (file, row, sample id) and what to do; the command line
prints the message alone and exits with `exit_code`. Anything else that escapes is a bug and keeps its traceback.
"""


class AgeVlmError(Exception):
    """Base of all errors that are the input's or the environment's, not the program's."""

    exit_code = 2


class DataError(AgeVlmError):
    """A question, answer, annotation or image file that cannot be used as it is."""


class CheckpointError(AgeVlmError):
    """A model checkpoint that cannot or must not be loaded."""


class RunFolderError(AgeVlmError):
    """A run folder that is in use, damaged, or cannot be written."""


class NotSupported(AgeVlmError):
    """The model lacks a capability that was asked for (a served model has no probe)."""


class EndpointError(AgeVlmError):
    """A served model that cannot be reached, refuses a request, or sends what is no answer.

    Attributes:
        kind: what sort of trouble it is; the same for errors whose messages differ in a request's number alone.
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind or message


class TrainError(AgeVlmError):
    """A training stage that cannot start, go on, or be resumed as asked."""
