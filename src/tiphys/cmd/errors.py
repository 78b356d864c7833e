"""What a user did or met that ends a command: one clear line, never a traceback."""

from __future__ import annotations


class UsageError(Exception):
    """The command line is wrong; the text is what the user reads. Exit status 2."""


class CommandError(Exception):
    """The command cannot do what it was asked; the text says what is in the way and what helps. Exit status 1."""
