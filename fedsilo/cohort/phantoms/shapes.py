"""Implicit shapes on a canvas: a field that is negative inside, wrinkled by the subject's noise."""

from dataclasses import dataclass

import numpy
from jaxtyping import Bool, Float32, UInt8
from scipy import ndimage

Point = tuple[float, float, float]
"""(x, y, z), LPS millimetres."""

NOISE_REACH = 4.5
SAMPLE_STEP_MM = 4.0
MIN_SAMPLES, MAX_SAMPLES = 10, 40
SMOOTHING_SAMPLES = 1.2


@dataclass(frozen=True)
class Canvas:
    """The voxels that are painted, whole or a view of a box of them; ``tissue`` is the only field that painting changes.

    Attributes:
        x_mm: Position in the standard body; also ``y_mm``, ``z_mm``. LPS.
        coarse_noise: Smooth field of unit variance, features of about 20 mm.
        fine_noise: The same with features of about 10 mm.
        cavity: Voxels inside the abdominal wall.
        tissue: What is painted so far.
    """

    x_mm: Float32[numpy.ndarray, "z y x"]
    y_mm: Float32[numpy.ndarray, "z y x"]
    z_mm: Float32[numpy.ndarray, "z y x"]
    coarse_noise: Float32[numpy.ndarray, "z y x"]
    fine_noise: Float32[numpy.ndarray, "z y x"]
    cavity: Bool[numpy.ndarray, "z y x"]
    tissue: UInt8[numpy.ndarray, "z y x"]

    def crop(self, box: tuple[slice, slice, slice]) -> "Canvas":
        """Give a view of a box; painting it paints this canvas."""
        return Canvas(
            x_mm=self.x_mm[box],
            y_mm=self.y_mm[box],
            z_mm=self.z_mm[box],
            coarse_noise=self.coarse_noise[box],
            fine_noise=self.fine_noise[box],
            cavity=self.cavity[box],
            tissue=self.tissue[box],
        )


@dataclass(frozen=True)
class Extents:
    """Lowest and highest position in each slice along an axis, to find the box of a shape without visiting all voxels."""

    z_mm: Float32[numpy.ndarray, "2 z"]
    y_mm: Float32[numpy.ndarray, "2 y"]
    x_mm: Float32[numpy.ndarray, "2 x"]

    def box(self, low: Point, high: Point) -> tuple[slice, slice, slice]:
        """Find the smallest box that holds each voxel between two corners; empty if there is none."""
        return (
            _span(self.z_mm, low[2], high[2]),
            _span(self.y_mm, low[1], high[1]),
            _span(self.x_mm, low[0], high[0]),
        )


def extents(canvas: Canvas) -> Extents:
    """Measure a canvas."""
    return Extents(
        z_mm=numpy.stack([canvas.z_mm.min(axis=(1, 2)), canvas.z_mm.max(axis=(1, 2))]),
        y_mm=numpy.stack([canvas.y_mm.min(axis=(0, 2)), canvas.y_mm.max(axis=(0, 2))]),
        x_mm=numpy.stack([canvas.x_mm.min(axis=(0, 1)), canvas.x_mm.max(axis=(0, 1))]),
    )


@dataclass(frozen=True)
class Ellipsoid:
    """A rotated super-ellipsoid.

    ``(|a|^p + |b|^p + |d|^p)^(1/p) - 1 + coarse n1 + fine n2`` with ``(a, b, d) = Rz Ry Rx (X - center) / radii``.
    """

    center: Point
    radii: Point
    angles: Point = (0.0, 0.0, 0.0)
    power: float = 2.0
    coarse: float = 0.0
    fine: float = 0.0

    def reach(self, margin: float = 0.0) -> tuple[Point, Point]:
        """Give the corners of a box that holds all points with a field below ``margin``."""
        grown = 1 + margin + NOISE_REACH * (self.coarse + self.fine)
        edges = numpy.abs(_rotation(self.angles)).T @ numpy.array(self.radii) * grown
        x, y, z = self.center
        return (x - edges[0], y - edges[1], z - edges[2]), (x + edges[0], y + edges[1], z + edges[2])

    def field(self, canvas: Canvas) -> Float32[numpy.ndarray, "z y x"]:
        """Evaluate at each voxel."""
        x, y, z = (axis - middle for axis, middle in zip((canvas.x_mm, canvas.y_mm, canvas.z_mm), self.center, strict=True))
        rows = (_rotation(self.angles) / numpy.array(self.radii)[:, None]).tolist()
        along = [row[0] * x + row[1] * y + row[2] * z for row in rows]
        return _wrinkle(_norm(along, self.power) - 1, canvas, self.coarse, self.fine)


@dataclass(frozen=True)
class Cylinder:
    """A super-elliptic cylinder along z; the field is the ellipsoid's in x and y."""

    half_x: float
    half_y: float
    center_y: float = 0.0
    power: float = 2.2
    coarse: float = 0.0

    def field(self, canvas: Canvas) -> Float32[numpy.ndarray, "z y x"]:
        """Evaluate at each voxel."""
        along = [canvas.x_mm / self.half_x, (canvas.y_mm - self.center_y) / self.half_y]
        return _wrinkle(_norm(along, self.power) - 1, canvas, self.coarse, 0.0)


@dataclass(frozen=True)
class Tube:
    """A tube of varying radius along a smoothed polyline: ``min_i |X - P_i| / r_i - 1 + fine n2`` over its samples."""

    points: tuple[Point, ...]
    radii: tuple[float, ...]
    fine: float = 0.0

    def samples(self) -> tuple[list[Point], list[float]]:
        """Sample the polyline about every 4 mm, 10 to 40 times, and smooth points and radii along it."""
        corners = numpy.array(self.points)
        radii = numpy.broadcast_to(numpy.array(self.radii), len(corners))
        at = numpy.concatenate([[0.0], numpy.cumsum(numpy.linalg.norm(numpy.diff(corners, axis=0), axis=1))])
        num_samples = int(numpy.clip(round(at[-1] / SAMPLE_STEP_MM), MIN_SAMPLES, MAX_SAMPLES))
        where = numpy.linspace(0.0, at[-1], num_samples)
        columns = [numpy.interp(where, at, column) for column in (*corners.T, radii)]
        smoothed = ndimage.gaussian_filter1d(numpy.stack(columns), SMOOTHING_SAMPLES, axis=1, mode="nearest")
        return [(x, y, z) for x, y, z in smoothed[:3].T.tolist()], smoothed[3].tolist()

    def reach(self, margin: float = 0.0) -> tuple[Point, Point]:
        """Give the corners of a box that holds all points with a field below ``margin``."""
        grown = max(self.radii) * (1 + margin + NOISE_REACH * self.fine)
        low, high = numpy.min(self.points, axis=0) - grown, numpy.max(self.points, axis=0) + grown
        return tuple(low.tolist()), tuple(high.tolist())

    def field(self, canvas: Canvas) -> Float32[numpy.ndarray, "z y x"]:
        """Evaluate at each voxel."""
        nearest = numpy.full(canvas.x_mm.shape, numpy.inf, numpy.float32)
        for (x, y, z), radius in zip(*self.samples(), strict=True):
            square = (canvas.x_mm - x) ** 2 + (canvas.y_mm - y) ** 2 + (canvas.z_mm - z) ** 2
            numpy.minimum(nearest, square / radius**2, out=nearest)
        return _wrinkle(numpy.sqrt(nearest) - 1, canvas, 0.0, self.fine)


def _span(bounds: Float32[numpy.ndarray, "2 n"], low: float, high: float) -> slice:
    """Find the slices along an axis whose positions meet an interval."""
    met = numpy.flatnonzero((bounds[1] >= low) & (bounds[0] <= high))
    return slice(int(met[0]), int(met[-1]) + 1) if len(met) else slice(0, 0)


def _rotation(angles: Point) -> numpy.ndarray:
    """Make ``Rz Ry Rx`` from radians about x, y and z."""
    (cx, cy, cz), (sx, sy, sz) = numpy.cos(angles), numpy.sin(angles)
    about_x = numpy.array([[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]])
    about_y = numpy.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    about_z = numpy.array([[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]])
    return about_z @ about_y @ about_x


def _norm(along: list[numpy.ndarray], power: float) -> numpy.ndarray:
    """Take the p-norm of fields."""
    if power == 2.0:  # noqa: PLR2004  # the square root is twenty times faster than a power
        return numpy.sqrt(sum(field * field for field in along))
    return sum(numpy.abs(field) ** power for field in along) ** (1 / power)


def _wrinkle(field: numpy.ndarray, canvas: Canvas, coarse: float, fine: float) -> numpy.ndarray:
    """Add the subject's noise to a field."""
    if coarse:
        field = field + coarse * canvas.coarse_noise
    if fine:
        field = field + fine * canvas.fine_noise
    return field
