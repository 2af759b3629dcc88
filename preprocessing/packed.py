"""Unpacks a gzip file in memory, and stops where it holds more than a text of that kind does.

In    the content of a gzip file, as some public files are published (`dev.csv.gz`).
Out   its bytes, or a UserError when it is damaged or unpacks to more than `MAX_UNPACKED`.
Run   `python -m preprocessing.readers event2mind=dev.csv.gz`

A few kilobytes of gzip can unpack to gigabytes. Unpacking goes in steps and ends at the limit, so what such a file can
take is known beforehand. Text is packed to a third or a fifth: an honest file at the limit has 50 MB or more.
"""

import gzip
import io
import zlib
from pathlib import Path

from preprocessing.errors import UserError

GZIP = b"\x1f\x8b"
MAX_UNPACKED = 256 * 2**20
_STEP = 2**20


def unpacked(path: Path, content: bytes) -> bytes:
    """What `content`, read from `path`, holds."""
    parts: list[bytes] = []
    size = 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            while part := file.read(_STEP):
                parts.append(part)
                if (size := size + len(part)) > MAX_UNPACKED:
                    raise UserError(
                        f"{path} unpacks to more than {MAX_UNPACKED // 2**20} MiB from {len(content):,} bytes; if it "
                        "is what you take it for, decompress it first"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is a damaged gzip file: {error}; fetch it again") from None
    return b"".join(parts)
