"""The errors of reading: one a user can mend, and one that concerns a single row.

In    a main function without arguments.
Out   a UserError becomes one line on stderr and exit code 2.
Run   `if __name__ == "__main__": run(main)` at the end of a command.
"""

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake the user can mend: the message names the thing, the values and the remedy."""


class BadRow(ValueError):
    """One row that cannot be read, as "reason: detail"; the reader sets it aside and goes on."""

    @property
    def reason(self) -> str:
        """A stable word, for counting."""
        return str(self).partition(": ")[0]

    @property
    def detail(self) -> str:
        return str(self).partition(": ")[2]


def run(main: Callable[[], None]) -> None:
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
