"""What a user can mend; commands show it as one line."""




class UserError(Exception):
    """Something the user can mend; the message says what is wrong and what to do, in one line."""


class UsageError(UserError):
    """The command line contradicts itself or names something that is not there."""
