"""The faults that a person can mend, and the ones a check found."""


class BadInputError(Exception):
    """Says in one sentence what is wrong, where, and how to mend it; ends a command with code 2."""


class RefusedError(Exception):
    """Says what a check or gate found; ends a command with code 1."""
