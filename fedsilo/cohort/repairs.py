"""Repairs that change no finding of a radiologist: rounding left behind by exports, undone on the way in, files untouched."""

from dataclasses import replace

import numpy
from numpy.typing import NDArray

from fedsilo.cohort import volumes
from fedsilo.cohort.layouts import SourceCase
from fedsilo.cohort.volumes import Image

NOISE = 1e-3
"""Largest change of a direction cosine, of an entry of a label's affine in mm, or of a label value."""

DIRECTION, LABEL_AFFINE, LABEL_VALUES = "direction", "label_affine", "label_values"


def read(source: SourceCase, *, fix: bool) -> tuple[Image, Image | None, tuple[str, ...]]:
    """Read a case, and with ``fix`` repair what is safe to repair.

    - ``direction``: axes that miss right angles by at most 0.001 become the nearest that do not; spacing and origin stay.
    - ``label_affine``: of the label becomes that of the image if no entry differs by more than 0.001.
    - ``label_values``: numbers at most 0.001 away from whole ones become these.

    Returns:
        Image, label if there is one, and the names of what was repaired.

    Raises:
        DataError: A file cannot be read.
    """
    image = volumes.read_image(source.image_paths)
    label = volumes.read_image([source.label_path], is_label=True) if source.label_path else None
    if not fix:
        return image, label, ()
    made = []
    stored = image.affine
    if stored is not None and volumes.SQUARE < volumes.shear(stored) <= NOISE:
        image = replace(image, affine=squared(stored))
        made.append(DIRECTION)
    if label is not None and stored is not None and label.affine is not None:
        apart = float(numpy.abs(label.affine - stored).max())
        if 0 < apart <= NOISE:
            made.append(LABEL_AFFINE)
        label = replace(label, affine=image.affine) if apart <= NOISE else label
    if label is not None and label.channels.dtype.kind == "f" and numpy.isfinite(label.channels).all():
        whole = numpy.rint(label.channels)
        if 0 < float(numpy.abs(label.channels - whole).max()) <= NOISE:
            label = replace(label, channels=whole)
            made.append(LABEL_VALUES)
    return image, label, tuple(made)


def squared(affine: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """Give the affine with right angles that is closest in direction; spacing, origin and handedness stay.

    Reference:
        The orthogonal factor of the polar decomposition; Higham, SIAM J. Sci. Stat. Comput. 7, 1986.
    """
    edges = numpy.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = numpy.linalg.svd(affine[:3, :3] / edges)
    found = affine.copy()
    found[:3, :3] = (left @ right) * edges
    return found
