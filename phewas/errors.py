"""The errors a user can meet. Each says what was found, what was expected, and what to do next."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable


class PhewasError(Exception):
    """A mistake in the input or the request, told in words; the CLI prints it without a traceback and exits with 2.

    Parameters
    ----------
    found
        What was met, with the offending value.
    expected
        What should have been there. Empty where `found` says it all.
    cure
        What to do next, ideally a command to copy.
    """

    exit_code = 2  # of the command line

    def __init__(self, found: str, *, expected: str = "", cure: str = "") -> None:
        self.found, self.expected, self.cure = found, expected, cure
        super().__init__(found)

    def __str__(self) -> str:
        parts = [self.found]
        if self.expected:
            parts.append(f"Expected: {self.expected}")
        if self.cure:
            parts.append(f"What to do: {self.cure}")
        return "\n".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.found, self.expected, self.cure)


def _rebuild(kind: type[PhewasError], found: str, expected: str, cure: str) -> PhewasError:
    """Keep the three parts when an error crosses a process boundary."""
    return kind(found, expected=expected, cure=cure)


class ConfigError(PhewasError):
    """An option, a TOML file or a combination of options that cannot work."""


class CohortError(PhewasError):
    """The source folder is not what the cohort's adapter reads."""


class SchemaError(PhewasError):
    """A table does not keep its contract (`phewas.schema`)."""


class VocabularyError(PhewasError):
    """A vocabulary is unknown or its tables are malformed."""


class SignalError(PhewasError):
    """A recording cannot be read, or no recording is usable."""


class EncoderError(PhewasError):
    """An encoder is unknown, or its input contract is not met."""


class WeightsError(EncoderError):
    """A weights file is missing, damaged, unsafe or of another architecture."""


class SplitError(PhewasError):
    """No held-out cohort can be formed, or a patient would be scored by a model that met them."""


class LearningError(PhewasError):
    """Training cannot start or has diverged."""


class StatisticsError(PhewasError):
    """A statistic is asked of data that cannot give it."""


class RunError(PhewasError):
    """The run directory belongs to another run, or is damaged."""


class DiskFullError(PhewasError):
    """A file could not be written, because the disk or the user's quota is full."""


def disk_full(error: BaseException, *, name: str = "") -> DiskFullError | None:
    """Return the error to raise in place of one that says that a disk is full, or None for any other error.

    Libraries say it in three ways: an error number, the number within a text (polars), and a count of bytes that falls
    short (numpy).

    Parameters
    ----------
    error
        As caught.
    name
        File that was written; default: the one that the error names.
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    elif isinstance(error, OSError):
        full = re.fullmatch(r"\d+ requested and \d+ written", text) is not None
    else:
        full = any(f"(os error {number})" in text for number in (errno.ENOSPC, errno.EDQUOT))
    if not full:
        return None
    file = name or (error.filename if isinstance(error, OSError) else None) or "a file"
    return DiskFullError(
        f"no space is left (or a quota is used up) for {file}",
        cure="make room, then give the same command again: what is finished is kept, and no half-written file is left",
    )


class PhewasWarning(UserWarning):
    """The run goes on, but the reader must know."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean X?`` for a mistyped name, or an empty string.

    Examples
    --------
    >>> nearest("anypg", ["anyppg", "net1d-small"])
    ' Did you mean anyppg?'
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""
