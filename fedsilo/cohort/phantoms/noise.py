"""Smooth random fields: normal numbers on a coarse lattice, interpolated to the grid.

The lattice is drawn first and alone decides the field, so the same subject can be shown on any grid. Interpolation is a
product with one small matrix an axis and uses no BLAS, so its bytes do not depend on the number of threads.
"""

import numpy
from jaxtyping import Float32
from scipy.interpolate import make_interp_spline

MAX_DEGREE = 3


def sample_lattice(nodes: tuple[int, ...], *, generator: numpy.random.Generator) -> Float32[numpy.ndarray, "*nodes"]:
    """Draw the standard normal lattice of a field."""
    return generator.standard_normal(nodes, dtype=numpy.float32)


def enlarge(lattice: Float32[numpy.ndarray, "a b c"], shape: tuple[int, int, int]) -> Float32[numpy.ndarray, "z y x"]:
    """Interpolate a lattice to a grid with cubic splines.

    Lattice and grid fill the same box: the outer nodes lie on its faces, voxels are taken at their centres.
    """
    along_z, along_y, along_x = (_weights(nodes, voxels) for nodes, voxels in zip(lattice.shape, shape, strict=True))
    field = numpy.einsum("za,abc->zbc", along_z, lattice)
    field = numpy.einsum("yb,zbc->zyc", along_y, field)
    return numpy.einsum("xc,zyc->zyx", along_x, field)


def smooth(lattice: Float32[numpy.ndarray, "a b c"], shape: tuple[int, int, int]) -> Float32[numpy.ndarray, "z y x"]:
    """Interpolate a lattice to a grid and divide by the field's standard deviation there."""
    field = enlarge(lattice, shape)
    return field / field.std()


def _weights(nodes: int, voxels: int) -> Float32[numpy.ndarray, "voxels nodes"]:
    """Make the matrix that interpolates values at nodes to voxel centres along one axis."""
    positions = (numpy.arange(voxels) + 0.5) / voxels * (nodes - 1)
    spline = make_interp_spline(numpy.arange(nodes), numpy.eye(nodes), k=min(MAX_DEGREE, nodes - 1))
    return numpy.asarray(spline(positions), numpy.float32)
