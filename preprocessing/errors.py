"""The errors of reading: one a user can mend, and one that concerns a single row.

In    a main function without arguments.
Out   a UserError, or an OSError that the user can mend, becomes one line on stderr and exit code 2; 3 where what was
      asked for does not fit; 141, as of other programs, where nobody reads what is printed any more (`| head`).
Run   `if __name__ == "__main__": run(main)` at the end of a command.
"""

import errno
import os
import select
import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake the user can mend: the message names the thing, the values and the remedy."""

    exit_code = 2


class DoesNotFit(UserError):
    """What was asked for is more than there is room for: known beforehand, or others have taken the room."""

    exit_code = 3


class BadRow(ValueError):
    """One row that cannot be read, as "reason: detail"; the reader sets it aside and goes on."""

    @property
    def reason(self) -> str:
        """A stable word, for counting."""
        return str(self).partition(": ")[0]

    @property
    def detail(self) -> str:
        return str(self).partition(": ")[2]


REMEDIES = {
    errno.ENOSPC: "the disk is full: make room and start again",
    errno.EDQUOT: "your quota is used up: make room and start again",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "a file name holds 255 bytes at most: shorten it",
    errno.ELOOP: "links lead back to themselves: name the file itself",
    errno.EPERM: "give yourself the right to it, or name another path",
    errno.EACCES: "give yourself the right to it, or name another path",
    errno.EROFS: "nothing can be written there: name another path",
    errno.EEXIST: "a file is in the way: remove it, or name another path",
    errno.ENOTDIR: "a file is in the way: remove it, or name another path",
    errno.EISDIR: "a folder is in the way: name a file",
}
"""Faults of the operating system that a user can mend, wherever in a command they come up."""


def run(main: Callable[[], None]) -> None:
    try:
        try:
            tell_errors_of(main)
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        if not reader_has_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes there as Python ends
        sys.exit(128 + signal.SIGPIPE)


def tell_errors_of(main: Callable[[], None]) -> None:
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        print(f"error: {error}; {REMEDIES[error.errno]}", file=sys.stderr)
        sys.exit(2)


def reader_has_gone() -> bool:
    """Whether it is standard output that broke, and no pipe of the program's own."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in output.poll(0))
