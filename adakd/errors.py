"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: one sentence saying what, where, and what to do.

    The command line prints it without a traceback and exits with status 1.
    """
