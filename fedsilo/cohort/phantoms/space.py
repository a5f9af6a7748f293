"""Where voxels lie: the acquisition grid, and the random deformation that makes one body differ from another.

Positions are millimetres in LPS (+x to the patient's left, +y to the back, +z to the head) around the middle of the
abdomen. Arrays are (z, y, x) towards S, A, R, as everywhere in fedsilo; so x and y positions fall along their axes.
"""

import math
from dataclasses import dataclass

import numpy
from jaxtyping import Float32, Float64
from scipy import ndimage

from fedsilo.cohort.phantoms import noise

VELOCITY_GRID = (20, 24, 32)
VELOCITY_NODES = (5, 5, 6)
VELOCITY_ZYX_MM = (6.0, 5.0, 6.0)
SQUARINGS = 5
SCALE_SD = 0.05
SHIFT_XYZ_MM = (5.0, 4.0, 8.0)


@dataclass(frozen=True)
class Positions:
    """LPS millimetres of each voxel."""

    x_mm: Float32[numpy.ndarray, "z y x"]
    y_mm: Float32[numpy.ndarray, "z y x"]
    z_mm: Float32[numpy.ndarray, "z y x"]


@dataclass(frozen=True)
class Grid:
    """An acquisition grid centred on the origin.

    Attributes:
        shape_zyx: Voxels along S, A, R.
        spacing_zyx_mm: Voxel edges.
        tilt_deg: Rotation about the x axis; 0 is axis-aligned.
    """

    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    tilt_deg: float

    @property
    def box_zyx_mm(self) -> tuple[float, float, float]:
        """Edges of the box that the voxels fill."""
        depth, height, width = (n * mm for n, mm in zip(self.shape_zyx, self.spacing_zyx_mm, strict=True))
        return depth, height, width

    @property
    def affine(self) -> Float64[numpy.ndarray, "4 4"]:
        """Map voxel index (x, y, z, 1) to RAS+ millimetres."""
        cos, sin = math.cos(math.radians(self.tilt_deg)), math.sin(math.radians(self.tilt_deg))
        tilt = numpy.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
        affine = numpy.eye(4)
        affine[:3, :3] = tilt * numpy.array(self.spacing_zyx_mm[::-1])
        affine[:3, 3] = -affine[:3, :3] @ ((numpy.array(self.shape_zyx[::-1]) - 1) / 2)
        return affine

    def finer(self, factors_zyx: tuple[int, int, int]) -> "Grid":
        """Split each voxel into ``factors_zyx`` voxels."""
        depth, height, width = (n * factor for n, factor in zip(self.shape_zyx, factors_zyx, strict=True))
        z_mm, y_mm, x_mm = (mm / factor for mm, factor in zip(self.spacing_zyx_mm, factors_zyx, strict=True))
        return Grid((depth, height, width), (z_mm, y_mm, x_mm), self.tilt_deg)

    def positions(self) -> Positions:
        """Give the LPS position of each voxel."""
        z, y, x = numpy.meshgrid(*(numpy.arange(n, dtype=numpy.float32) for n in self.shape_zyx), indexing="ij")
        ras = [sum((row[i] * axis for i, axis in enumerate((x, y, z))), row[3]) for row in self.affine[:3].tolist()]
        return Positions(x_mm=-ras[0], y_mm=-ras[1], z_mm=ras[2])


@dataclass(frozen=True)
class Deformation:
    """A subject's random diffeomorphism and pose.

    Attributes:
        velocity: Lattices of the stationary velocity's z, y and x component.
        scale_xyz: Factor from position to position in the standard body.
        shift_xyz_mm: Subtracted after scaling.
    """

    velocity: Float32[numpy.ndarray, "3 a b c"]
    scale_xyz: tuple[float, float, float]
    shift_xyz_mm: tuple[float, float, float]


def sample_deformation(*, generator: numpy.random.Generator) -> Deformation:
    """Draw a subject's deformation."""
    velocity = noise.sample_lattice((3, *VELOCITY_NODES), generator=generator)
    scale = generator.normal(1.0, SCALE_SD, 3)
    shift = generator.normal(0.0, SHIFT_XYZ_MM)
    return Deformation(velocity, tuple(scale.tolist()), tuple(shift.tolist()))


def apply_deformation(grid: Grid, deformation: Deformation) -> Positions:
    """Find the position in the standard body that each voxel of a grid shows.

    ``(X + u) * scale - shift``, where u is the flow of the velocity at time one by scaling and squaring: start from
    ``v / 32`` and compose five times ``u <- u + u o (id + u)``. So the map is smooth and one-to-one.

    Reference:
        Arsigny et al., MICCAI 2006 (scaling and squaring of a stationary velocity field).
    """
    displacement_zyx = [noise.enlarge(component, grid.shape_zyx) for component in _flow(deformation.velocity, grid)]
    at = grid.positions()
    moved = [
        (position + displacement) * scale - shift
        for position, displacement, scale, shift in zip(
            (at.x_mm, at.y_mm, at.z_mm), displacement_zyx[::-1], deformation.scale_xyz, deformation.shift_xyz_mm, strict=True
        )
    ]
    return Positions(*moved)


def _flow(velocity: Float32[numpy.ndarray, "3 a b c"], grid: Grid) -> Float32[numpy.ndarray, "3 z y x"]:
    """Integrate the velocity to a displacement in mm on the velocity grid."""
    amplitudes = numpy.array(VELOCITY_ZYX_MM, numpy.float32)[:, None, None, None]
    displacement = numpy.stack([noise.smooth(lattice, VELOCITY_GRID) for lattice in velocity]) * amplitudes / 2**SQUARINGS
    # positions fall along y and x: one index step is minus one voxel
    step_mm = [sign * mm / n for sign, mm, n in zip((1, -1, -1), grid.box_zyx_mm, VELOCITY_GRID, strict=True)]
    index = numpy.stack(numpy.meshgrid(*(numpy.arange(n, dtype=numpy.float32) for n in VELOCITY_GRID), indexing="ij"))
    per_step = numpy.array(step_mm, numpy.float32)[:, None, None, None]
    for _ in range(SQUARINGS):
        where = index + displacement / per_step
        displacement = displacement + numpy.stack(
            [ndimage.map_coordinates(component, where, order=1, mode="nearest") for component in displacement]
        )
    return displacement
