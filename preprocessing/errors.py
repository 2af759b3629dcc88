"""The one error a user can mend, and how a command ends with it.

In    a main function without arguments.
Out   its return value is dropped; a UserError becomes one line on stderr and exit code 2.
Run   `if __name__ == "__main__": run(main)` at the end of a command.
"""

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake the user can mend: the message names the thing, the values and the remedy."""


def run(main: Callable[[], None]) -> None:
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
