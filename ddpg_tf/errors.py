"""What a user can mend: commands show it as one line."""

import traceback
from pathlib import Path


class UserError(Exception):
    """Something the user can mend; the message says what is wrong and what to do, in one line."""


class UsageError(UserError, ValueError):
    """Settings that contradict each other, or name something that is not there."""


def located(error: Exception) -> str:
    """An error of somebody else's code, and the line it was raised in."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(at.filename).name}, line {at.lineno})"
