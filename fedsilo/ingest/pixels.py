"""Read PNG, BMP and TIFF slices: grey of 8 or 16 bits, RGB of 8, indices of a palette; nothing that lost precision on its way."""

import warnings
from pathlib import Path

import numpy
import PIL.Image
from numpy.typing import NDArray

from fedsilo.ingest import silence
from fedsilo.ingest.source import MAX_PIXELS, SourceError

FORMATS = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
LOSSY = (".jpg", ".jpeg", ".jfif", ".webp", ".jp2")
IMAGE_MODES = ("L", "I;16", "I;16B", "I;16L", "I", "RGB")
LABEL_MODES = ("1", "L", "P", "I;16", "I;16B", "I;16L", "I")
LOSSY_COMPRESSION = ("jpeg", "tiff_jpeg", "webp")
TIFF_BITS, TIFF_PHOTOMETRIC = 258, 262
PNG_BITS_OFFSET, PNG_RGB = 24, 2
BYTE_MAX, WORD_MAX = 255, 65535


def read(path: Path, *, is_label: bool = False) -> NDArray[numpy.generic]:
    """Read a slice as (c, row, column), uint8 or uint16: grey is one channel, RGB three. Of a palette label, the indices.

    Raises:
        SourceError: The file is damaged, cut off, too large, of several pages, lossy, or has other pixels than these.
    """
    try:
        with silence.kept(), warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path, formats=[FORMATS[path.suffix]]) as opened:
                _check(opened, path, LABEL_MODES if is_label else IMAGE_MODES)
                opened.load()
                array = numpy.asarray(opened)
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise SourceError("too large", f"a slice has more than {MAX_PIXELS} pixels") from None
    except SourceError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types for one meaning: not readable
        raise SourceError("unreadable", f"{path.suffix} file is damaged or cut off: {type(error).__name__}") from None
    return numpy.ascontiguousarray(numpy.moveaxis(numpy.atleast_3d(_unsigned(array)), 2, 0))


def _check(opened: PIL.Image.Image, path: Path, modes: tuple[str, ...]) -> None:
    """Refuse by the header what would be read wrongly or not at all."""
    if opened.width * opened.height > MAX_PIXELS:
        raise SourceError("too large", f"a slice has {opened.width} x {opened.height} pixels; expected at most {MAX_PIXELS}")
    if getattr(opened, "n_frames", 1) != 1:
        raise SourceError("voxel type", f"expected one slice a file, got {getattr(opened, 'n_frames', 1)} pages")
    if str(opened.info.get("compression", "")) in LOSSY_COMPRESSION:
        raise SourceError("voxel type", "the pixels are compressed with loss; export them without")
    if opened.mode not in modes:
        raise SourceError("voxel type", f"expected pixels of a kind in {', '.join(modes)}, got {opened.mode}")
    if opened.mode == "RGB" and _bits(opened, path) > 8:  # noqa: PLR2004  # Pillow cuts colours down to 8 bits without a word
        raise SourceError("voxel type", "colours of more than 8 bits are not supported; export grey of 16 bits")
    tags = getattr(opened, "tag_v2", {})
    if path.suffix.startswith(".tif") and opened.mode.startswith("I") and tags.get(TIFF_PHOTOMETRIC) == 0:
        raise SourceError("voxel type", "a TIFF of 16 bits in which 0 is white is not supported; export it with 0 as black")


def _bits(opened: PIL.Image.Image, path: Path) -> int:
    """Read how many bits a colour has."""
    if path.suffix == ".png":
        with path.open("rb") as handle:
            start = handle.read(PNG_BITS_OFFSET + 2)
        return start[PNG_BITS_OFFSET] if start[PNG_BITS_OFFSET + 1] == PNG_RGB else 8
    bits = getattr(opened, "tag_v2", {}).get(TIFF_BITS, (8,))
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _unsigned(array: NDArray[numpy.generic]) -> NDArray[numpy.generic]:
    """Bring pixels to uint8 or uint16 of this machine's byte order."""
    if array.dtype.kind == "b" or array.dtype.itemsize == 1:
        return array.astype(numpy.uint8)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > WORD_MAX:
        raise SourceError("voxel type", f"expected pixels from 0 to {WORD_MAX}, got {low} to {high}")
    return array.astype(numpy.uint16)
