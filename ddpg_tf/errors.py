"""What a user can mend: commands show it as one line."""


class UserError(Exception):
    """Something the user can mend; the message says what is wrong and what to do, in one line."""


class UsageError(UserError, ValueError):
    """Settings that contradict each other, or name something that is not there."""
