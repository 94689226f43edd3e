"""The one exception that a user is meant to read."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: one sentence saying what, where, and what to do.

    The command line prints it without a traceback and exits with status 1.
    """


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest that is known, or all of them."""
    import difflib  # for errors alone

    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"there are {', '.join(known)}." if known else "there are none."
