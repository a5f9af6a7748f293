"""A state that stays in its file: an entry is read when it is asked for, so that many states cost the memory of a few entries."""

import hashlib
import json
import math
import os
import stat
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedsilo import files
from fedsilo.errors import CheckpointError
from fedsilo.federation.states import HEADER_LENGTH_BYTES

MAX_HEADER_BYTES = 4 << 20
"""A header has about 100 bytes an entry."""

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class _Entry:
    """Where an entry lies in the file, and what it is."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    num_bytes: int


class StoredState(Mapping[str, Tensor]):
    """A safetensors file as a read-only state; each access reads the entry anew, on the CPU.

    The file is opened once: another that takes its name later is not read. Nothing of it is run.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and read its header alone.

        Raises:
            CheckpointError: The file cannot be read, or is no whole safetensors file: its header is too long or damaged, bytes
                are missing or left over, a type is unknown, or it carries text beside its entries.
        """
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
        self._close = weakref.finalize(self, os.close, self._handle)
        status = os.fstat(self._handle)
        self.num_bytes = status.st_size
        try:
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is no file")
            self._entries = self._read_header()
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            self._close()
            raise CheckpointError(f"cannot use {path} as safetensors: {' '.join(str(error).split())}") from error

    def __getitem__(self, name: str) -> Tensor:
        """Read an entry.

        Raises:
            KeyError: There is none of this name.
            CheckpointError: The file became shorter since it was opened.
        """
        entry = self._entries[name]
        if entry.num_bytes == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
        content = bytearray(entry.num_bytes)
        self._fill(memoryview(content), entry.start)
        return torch.frombuffer(content, dtype=entry.dtype).reshape(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def sha256(self) -> str:
        """Hash the file that is open; hex."""
        digest = hashlib.sha256()
        for start in range(0, self.num_bytes, files.CHUNK_BYTES):
            content = bytearray(min(files.CHUNK_BYTES, self.num_bytes - start))
            self._fill(memoryview(content), start)
            digest.update(content)
        return digest.hexdigest()

    def _fill(self, target: memoryview, start: int) -> None:
        """Read as many bytes as fit."""
        while target:
            num_read = os.preadv(self._handle, [target], start)
            if num_read == 0:
                raise CheckpointError(f"{self.path} became shorter while it was read")
            target, start = target[num_read:], start + num_read

    def _read_header(self) -> dict[str, _Entry]:
        """Read where the entries lie; the library checks first that they fill the file without gap or overlap."""
        length = int.from_bytes(os.pread(self._handle, HEADER_LENGTH_BYTES, 0), "little")
        if length > min(MAX_HEADER_BYTES, self.num_bytes):
            raise ValueError(f"its header would have {length} bytes, expected at most {min(MAX_HEADER_BYTES, self.num_bytes)}")
        with safe_open(f"/dev/fd/{self._handle}", framework="numpy") as checked:
            names = set(checked.keys())
        header = json.loads(os.pread(self._handle, length, HEADER_LENGTH_BYTES), object_pairs_hook=_unique)
        if header.keys() != names:
            raise ValueError(f"its header holds other things than entries: {', '.join(sorted(header.keys() ^ names))}")
        begin = HEADER_LENGTH_BYTES + length
        return {name: _entry(header[name], begin) for name in sorted(header)}


def _entry(described: Mapping[str, Any], begin: int) -> _Entry:
    """Read an entry's description, whose form the library has checked."""
    dtype, shape, (start, end) = DTYPES[described["dtype"]], tuple(described["shape"]), described["data_offsets"]
    if math.prod(shape) * dtype.itemsize != end - start:
        raise ValueError(f"an entry of the shape {shape} has {end - start} bytes")
    return _Entry(dtype, shape, begin + start, end - start)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make an object of pairs whose keys differ."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a name stands twice in its header")
    return record
