"""The faults that a person can mend."""


class BadInputError(Exception):
    """Says in one sentence what is wrong, where, and how to mend it; ends a command with code 2."""
