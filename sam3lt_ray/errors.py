"""Errors in three families with three fates.

* :class:`UsageError`: the request itself is wrong (config, vocabulary, input location, checkpoint). Shown before any
  device time is spent; exit code 2.
* :class:`RunError`: the run cannot go on or did not finish; exit code 1, or 75 where trying again is worthwhile.
* :class:`ImageError`: one image is unusable. It never stops anything: it becomes that image's error row.

Every class keeps its whole state in ``args``, because exceptions cross process borders by pickling and an exception
that cannot be rebuilt takes its message with it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_OVER_ERROR_BUDGET = 3
EXIT_RETRY = 75  # EX_TEMPFAIL of sysexits.h: worth retrying

_MAX_PROBLEMS_SHOWN = 20

ImageErrorKind = Literal[
    "empty",  # zero bytes
    "not_an_image",  # no known image signature
    "truncated",  # an image that ends too early
    "too_large",  # above the pixel or byte limit
    "unsupported",  # an image in a form we do not decode
    "corrupt",  # an image the decoder gave up on
    "duplicate_key",  # the key already stood in this shard
    "truncated_shard",  # the shard ends here, without its end mark
    "unreadable",  # storage could not deliver the bytes (missing file, denied)
    "worker_died",  # labeling this image ended its process, every time
    "out_of_memory",  # labeling this image did not fit into memory, even alone
    "failed",  # anything else; the message says what
]


class Sam3ltError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What happened, to which thing, what was expected, what to do. Complete sentences for a person.
    """

    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, message: str) -> None:
        super().__init__(message)

    @property
    def message(self) -> str:
        """The sentence shown to the user."""
        return str(self.args[0])


class UsageError(Sam3ltError):
    """The request is wrong and no retry can help; exit code 2."""

    exit_code: ClassVar[int] = EXIT_USAGE


class ConfigError(UsageError):
    """One or more mistakes in configuration or vocabulary, all reported at once.

    Args:
        problems: One line per mistake, each naming file and key.
    """

    def __init__(self, problems: list[str]) -> None:
        Exception.__init__(self, problems)

    @property
    def problems(self) -> list[str]:
        """One line per mistake."""
        return list(self.args[0])

    @property
    def message(self) -> str:
        """The mistakes, one a line; of very many the first ones and how many there are besides."""
        shown, more = self.problems[:_MAX_PROBLEMS_SHOWN], len(self.problems) - _MAX_PROBLEMS_SHOWN
        return "\n".join([*shown, f"... and {more:,} more."] if more > 0 else shown)

    def __str__(self) -> str:
        return self.message


class InputError(UsageError):
    """The input location cannot be read: wrong uri, missing bucket, denied access, no images, unknown format."""


class CheckpointError(UsageError):
    """The checkpoint cannot be used: wrong type, missing or mismatched weights, no safetensors."""


class RunMismatchError(UsageError):
    """The run directory was made with other settings that change labels, or by other input."""


class RunError(Sam3ltError):
    """The run failed; exit code 1."""


class DeviceError(RunError):
    """The device works no more in this process (a CUDA error that stays), whatever is asked of it."""


class RetryableRunError(RunError):
    """The run stopped before its end and starting it again continues it; exit code 75."""

    exit_code: ClassVar[int] = EXIT_RETRY


class RunTakenOverError(RetryableRunError):
    """Another process holds the run now: this one must write nothing more into it; exit code 75."""


class StorageError(RunError):
    """Storage refused or lost a request for good (after retries)."""


class StorageUnavailableError(StorageError):
    """Storage is away, or lets nobody in any more, for reasons that pass: starting again goes on; exit code 75."""

    exit_code: ClassVar[int] = EXIT_RETRY


class ImageError(Sam3ltError):
    """One image is unusable; becomes its error row.

    Args:
        kind: The stored ``error_kind``.
        message: The stored ``error_message``.
    """

    def __init__(self, kind: ImageErrorKind, message: str) -> None:
        Exception.__init__(self, kind, message)

    @property
    def kind(self) -> ImageErrorKind:
        """The stored ``error_kind``."""
        kind: ImageErrorKind = self.args[0]
        return kind

    @property
    def message(self) -> str:
        """The stored ``error_message``."""
        return str(self.args[1])

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def sentence_of(error: BaseException) -> str:
    """What an error says to a person: our own ones a sentence, any other its kind too."""
    return str(error) if isinstance(error, Sam3ltError) else f"{type(error).__name__}: {error}"
