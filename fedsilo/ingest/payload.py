"""The bytes of voxels: exactly as many as a header claims, never more than that in memory."""

import io
import zlib
from typing import IO

from fedsilo.ingest.source import SourceError

MAX_TRAILING_BYTES = 1 << 20
"""Of padding after the voxels; more is no file of ours."""
MAX_DEFLATE_RATIO = 1032
"""Of deflate, by its format: a shorter file cannot hold what its header claims."""
CHUNK_BYTES = 1 << 20
ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS


def stored(handle: io.BufferedIOBase | IO[bytes], num_bytes: int, what: str) -> bytes:
    """Read voxels as they are stored, and to the end of the file, where a packed one has its checksum.

    Raises:
        SourceError: There are fewer bytes, or many more.
    """
    content = handle.read(num_bytes)
    if len(content) < num_bytes:
        raise SourceError("unreadable", f"{what} is cut off: expected {num_bytes} bytes of voxels, got {len(content)}")
    if len(handle.read(MAX_TRAILING_BYTES + 1)) > MAX_TRAILING_BYTES:
        raise SourceError("unreadable", f"{what} is much longer than its header says")
    return content


def unpacked(handle: io.BufferedIOBase | IO[bytes], num_bytes: int, what: str) -> bytes:
    """Unpack voxels from one stream of zlib or gzip, to its end, where its checksum is.

    Raises:
        SourceError: There are fewer bytes or more, or many behind the stream.
        zlib.error: The stream is damaged.
    """
    unpacker = zlib.decompressobj(ZLIB_OR_GZIP)
    content = bytearray()
    while not unpacker.eof:
        chunk = unpacker.unconsumed_tail or handle.read(CHUNK_BYTES)
        if not chunk:
            raise SourceError("unreadable", f"{what} is cut off: its packed voxels have no end")
        content += unpacker.decompress(chunk, num_bytes + 1 - len(content))  # one more than claimed tells a stream that goes on
        if len(content) > num_bytes:
            raise SourceError("unreadable", f"{what} is longer than its header says")
    if len(content) < num_bytes:
        raise SourceError("unreadable", f"{what} is cut off: expected {num_bytes} bytes of voxels, got {len(content)}")
    if len(unpacker.unused_data) + len(handle.read(MAX_TRAILING_BYTES + 1)) > MAX_TRAILING_BYTES:
        raise SourceError("unreadable", f"{what} is much longer than its header says")
    return bytes(content)
