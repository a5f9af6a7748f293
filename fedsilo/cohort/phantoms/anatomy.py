"""What a subject is made of: tissues, and the random shapes of its organs in the standard body.

Lengths are millimetres and positions LPS. Shapes follow the anatomy of the upper abdomen closely enough that organs
touch, overlap in projection and vary between subjects as in patients; they are drawn, not measured.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import cast

import numpy
from jaxtyping import Float32
from numpy.random import Generator

from fedsilo.cohort.phantoms import noise, space
from fedsilo.cohort.phantoms.shapes import Ellipsoid, Point, Tube
from fedsilo.cohort.phantoms.space import Deformation

COARSE_NODES = (10, 12, 16)
FINE_NODES = (20, 28, 36)
GALLBLADDER_ABSENT = 0.08
AIR_FLUID_LEVEL = 0.45
RIBS_XYZ_MM = (100.0, 24.0, -60.0)


class Tissue(IntEnum):
    """What a fine voxel holds."""

    AIR = 0
    SKIN = 1
    FAT_SUBCUTANEOUS = 2
    MUSCLE = 3
    FAT_VISCERAL = 4
    CORTICAL_BONE = 5
    MARROW = 6
    DISC = 7
    CSF = 8
    LUNG = 9
    HEART = 10
    BLOOD = 11
    LIVER = 12
    LIVER_VESSEL = 13
    KIDNEY_CORTEX = 14
    KIDNEY_MEDULLA = 15
    SPLEEN = 16
    PANCREAS = 17
    GALLBLADDER_WALL = 18
    BILE = 19
    GUT_WALL = 20
    GUT_FLUID = 21
    STOOL = 22
    GAS = 23


ORGANS = ("background", "liver", "kidneys", "spleen", "pancreas", "gallbladder")
"""Names of the label values."""

ORGAN_OF = {
    Tissue.LIVER: ORGANS.index("liver"),
    Tissue.LIVER_VESSEL: ORGANS.index("liver"),
    Tissue.KIDNEY_CORTEX: ORGANS.index("kidneys"),
    Tissue.KIDNEY_MEDULLA: ORGANS.index("kidneys"),
    Tissue.SPLEEN: ORGANS.index("spleen"),
    Tissue.PANCREAS: ORGANS.index("pancreas"),
    Tissue.GALLBLADDER_WALL: ORGANS.index("gallbladder"),
    Tissue.BILE: ORGANS.index("gallbladder"),
}
"""Label values of the tissues that belong to an organ; all others are background."""


@dataclass(frozen=True)
class Body:
    """Trunk wall: half axes of the skin, thickness of fat and muscle, where the vertebral bodies' centres lie."""

    half_x: float
    half_y: float
    fat: float
    muscle: float
    spine_y: float
    disc_offset: float
    rib_heights: tuple[float, ...]

    @property
    def cavity_x(self) -> float:
        """Half width of the abdominal cavity."""
        return self.half_x - self.fat - self.muscle

    @property
    def cavity_y(self) -> float:
        """Half depth of the abdominal cavity; fat is thinner in front and behind."""
        return self.half_y - 0.8 * self.fat - self.muscle


@dataclass(frozen=True)
class Gut:
    """A piece of bowel or the stomach: parts whose union is the outer surface, content, and where gas lies on top of it."""

    parts: tuple[Ellipsoid | Tube, ...]
    content: Tissue
    content_below: float
    gas_before_y: float | None


@dataclass(frozen=True)
class Kidney:
    """A kidney with its hilum; ``num_lobes`` and ``phase`` place the pyramids around its axis."""

    side: int
    capsule: Ellipsoid
    hilum: Ellipsoid
    num_lobes: float
    phase: float


@dataclass(frozen=True)
class Subject:
    """All that is random in one subject's anatomy; shown by ``painting.paint`` on any grid."""

    deformation: Deformation
    coarse_lattice: Float32[numpy.ndarray, "a b c"]
    fine_lattice: Float32[numpy.ndarray, "d e f"]
    body: Body
    muscles: tuple[Ellipsoid, ...]
    dome_z: float
    heart: Ellipsoid
    bowel: tuple[Gut, ...]
    stomach: Gut
    aorta: Tube
    cava: Tube
    kidneys: tuple[Kidney, Kidney]
    spleen: Ellipsoid
    spleen_dent: Ellipsoid
    liver_lobes: tuple[Ellipsoid, Ellipsoid]
    liver_dent: Ellipsoid
    liver_vessels: tuple[Tube, ...]
    pancreas: Tube
    splenic_vein: Tube
    duodenum: Gut
    gallbladder: Ellipsoid | None


def sample_subject(*, generator: Generator) -> Subject:
    """Draw a subject."""
    deformation = space.sample_deformation(generator=generator)
    coarse = noise.sample_lattice(COARSE_NODES, generator=generator)
    fine = noise.sample_lattice(FINE_NODES, generator=generator)
    body = _sample_body(generator)
    spleen, spleen_dent = _sample_spleen(generator)
    liver_lobes = _sample_liver_lobes(generator)
    pancreas_z = generator.uniform(-12, 6)
    return Subject(
        deformation=deformation,
        coarse_lattice=coarse,
        fine_lattice=fine,
        body=body,
        muscles=_muscles(body),
        dome_z=generator.uniform(58, 72),
        heart=Ellipsoid((15, -30, 95), (50, 42, 35), coarse=0.05),
        bowel=tuple(_sample_loop(body, generator) for _ in range(generator.integers(22, 40, endpoint=True))),
        stomach=_sample_stomach(generator),
        aorta=_sample_aorta(body, generator),
        cava=_sample_cava(body, generator),
        kidneys=(_sample_kidney(-1, body, generator), _sample_kidney(+1, body, generator)),
        spleen=spleen,
        spleen_dent=spleen_dent,
        liver_lobes=liver_lobes,
        liver_dent=Ellipsoid((10, 25, -25), (75, 75, 62), coarse=0.04),
        liver_vessels=_sample_liver_vessels(liver_lobes[0].center, body, generator),
        pancreas=_sample_pancreas(pancreas_z, generator),
        splenic_vein=Tube(((-22, 0, pancreas_z - 5), (0, -4, pancreas_z), (60, 16, pancreas_z + 16)), (5, 4.5, 4)),
        duodenum=_sample_duodenum(pancreas_z, generator),
        gallbladder=_sample_gallbladder(generator),
    )


def _point(generator: Generator, *ranges: tuple[float, float]) -> Point:
    """Draw a point uniformly from a box."""
    x, y, z = (generator.uniform(low, high) for low, high in ranges)
    return x, y, z


def _sample_body(generator: Generator) -> Body:
    fat = float(numpy.clip(generator.gamma(4, 4), 5, 32))
    half_x, half_y, muscle = generator.normal(155, 12), generator.normal(105, 9), generator.uniform(9, 15)
    top, step, lowest = RIBS_XYZ_MM
    heights = [top - step * k + generator.uniform(-3, 3) for k in range(9)]
    return Body(
        half_x=half_x,
        half_y=half_y,
        fat=fat,
        muscle=muscle,
        spine_y=half_y - 0.8 * fat - muscle - 28 + generator.uniform(-3, 3),
        disc_offset=generator.uniform(0, 36),
        rib_heights=tuple(height for height in heights if height >= lowest),
    )


def _muscles(body: Body) -> tuple[Ellipsoid, ...]:
    """Place the muscles beside the spine and the psoas muscles."""
    return tuple(
        muscle
        for side in (-1, 1)
        for muscle in (
            Ellipsoid((38 * side, body.cavity_y - 2, 0), (30, 18, 400), power=2.5, coarse=0.05),
            Ellipsoid((34 * side, body.spine_y + 3, -70), (15, 17, 75), coarse=0.06),
        )
    )


def _sample_loop(body: Body, generator: Generator) -> Gut:
    """Draw one loop of bowel."""
    x, y, z = _point(
        generator, (-0.75 * body.cavity_x, 0.75 * body.cavity_x), (-0.85 * body.cavity_y, 0.15 * body.cavity_y), (-105, -5)
    )
    length, turn, rise = generator.uniform(15, 45), generator.uniform(0, 2 * numpy.pi), generator.uniform(-0.6, 0.6)
    dx, dy, dz = length * numpy.cos(turn) * numpy.cos(rise), 0.5 * length * numpy.sin(turn), length * numpy.sin(rise)
    bend = generator.normal(0, 8, 3)
    radius = generator.uniform(9, 17)
    content = (Tissue.GUT_FLUID, Tissue.STOOL, Tissue.GUT_WALL, Tissue.GAS)[generator.choice(4, p=(0.35, 0.25, 0.25, 0.15))]
    level = y - radius * generator.uniform(0, 0.4)
    has_level = generator.random() < AIR_FLUID_LEVEL and content in {Tissue.GUT_FLUID, Tissue.STOOL}
    tube = Tube(
        ((x - dx, y - dy, z - dz), (x + bend[0], y + bend[1], z + bend[2]), (x + dx, y + dy, z + dz)), (radius,) * 3, fine=0.08
    )
    return Gut((tube,), content, content_below=-0.22, gas_before_y=level if has_level else None)


def _sample_stomach(generator: Generator) -> Gut:
    x, y, z = _point(generator, (40, 62), (-42, -20), (28, 52))
    radii = _point(generator, (28, 42), (26, 36), (32, 48))
    angles = _point(generator, (-0.3, 0.3), (-0.4, 0.4), (-0.4, 0.4))
    return Gut(
        parts=(
            Ellipsoid((x, y, z), radii, angles, coarse=0.08),
            Tube(((x, y, z), (25, -50, 10), (-12, -42, -2)), (24, 18, 13), fine=0.05),
        ),
        content=(Tissue.GUT_FLUID, Tissue.STOOL)[generator.choice(2, p=(0.6, 0.4))],
        content_below=-0.16,
        gas_before_y=y - generator.uniform(4, 18),
    )


def _sample_aorta(body: Body, generator: Generator) -> Tube:
    y = body.spine_y
    top_x, radius = generator.uniform(2, 12), generator.uniform(8.5, 12.5)
    return Tube(((top_x, y - 25, 120), (8, y - 28, 0), (4, y - 28, -120)), (radius,) * 3)


def _sample_cava(body: Body, generator: Generator) -> Tube:
    y, radius = body.spine_y, generator.uniform(9, 13)
    return Tube(((-22, y - 38, 100), (-18, y - 30, 20), (-16, y - 25, -120)), (radius,) * 3)


def _sample_kidney(side: int, body: Body, generator: Generator) -> Kidney:
    """Draw the right (-1) or left (+1) kidney; the right one lies lower."""
    x, y = side * generator.uniform(54, 68), body.spine_y - generator.uniform(8, 20)
    z = generator.uniform(-42, -18) if side < 0 else generator.uniform(-25, 4)
    size = 1.12 * generator.normal(1, 0.05)
    rx, ry, rz = (size * radius for radius in _point(generator, (24, 31), (21, 28), (46, 60)))
    # the lower pole lies in front of the upper one, and further from the spine: it rests on the psoas
    angles = (generator.uniform(-0.05, 0.25), side * generator.uniform(0.1, 0.3), side * generator.uniform(-0.6, 0.1))
    return Kidney(
        side=side,
        capsule=Ellipsoid((x, y, z), (rx, ry, rz), angles, coarse=0.05, fine=0.02),
        hilum=Ellipsoid((x - 0.85 * side * rx, y - 4, z), (0.75 * rx, 0.55 * ry, 0.42 * rz), angles, coarse=0.12),
        num_lobes=generator.uniform(7, 10),
        phase=generator.uniform(0, 6),
    )


def _sample_spleen(generator: Generator) -> tuple[Ellipsoid, Ellipsoid]:
    """Draw the spleen and the ellipsoid that hollows its inner face."""
    x, y, z = _point(generator, (84, 100), (8, 34), (22, 48))
    rx, ry, rz = _point(generator, (24, 36), (36, 52), (36, 58))
    angles = _point(generator, (-0.4, 0.2), (-0.3, 0.3), (-0.5, 0.1))
    return (
        Ellipsoid((x, y, z), (rx, ry, rz), angles, power=2.2, coarse=0.07),
        Ellipsoid((x - 1.05 * rx, y - 12, z), (0.85 * rx, 0.85 * ry, 0.85 * rz), angles, coarse=0.05),
    )


def _sample_liver_lobes(generator: Generator) -> tuple[Ellipsoid, Ellipsoid]:
    """Draw the right and the left lobe."""
    right, left = (
        Ellipsoid(
            _point(generator, *center),
            cast("Point", tuple(1.1 * radius for radius in _point(generator, *radii))),
            _point(generator, *angles),
            power=2.4,
            coarse=0.06,
        )
        for center, radii, angles in (
            (((-82, -62), (-14, 10), (18, 38)), ((62, 82), (68, 84), (62, 88)), ((-0.1, 0.1), (-0.2, 0.25), (-0.15, 0.15))),
            (((-12, 12), (-62, -44), (34, 56)), ((55, 85), (24, 36), (24, 40)), ((0, 0), (-0.35, 0.05), (-0.1, 0.2))),
        )
    )
    return right, left


def _sample_liver_vessels(center: Point, body: Body, generator: Generator) -> tuple[Tube, ...]:
    """Draw vessels that spread from the cava into the right lobe."""
    vessels = []
    for _ in range(generator.integers(7, 12, endpoint=True)):
        x, y, z = (numpy.array(center) + generator.normal(size=3) * (32, 30, 32)).tolist()
        bend = generator.normal(0, 8, 3)
        root = (-18.0, body.spine_y - 40, generator.uniform(0, 50))
        middle = ((center[0] + x) / 2 - 10 + bend[0], (center[1] + y) / 2 + bend[1], (center[2] + z) / 2 + 5 + bend[2])
        vessels.append(Tube((root, middle, (x, y, z)), (generator.uniform(5, 7), 4, 2.6)))
    return tuple(vessels)


def _sample_pancreas(z: float, generator: Generator) -> Tube:
    """Draw the pancreas from its head, right of the midline, to its tail at the spleen."""
    course = numpy.array(
        [(-30, -6, z - 22), (-27, -12, z - 4), (-4, -22, z + 6), (26, -10, z + 12), (56, 8, z + 20), (74, 16, z + 26)]
    )
    course = course + generator.normal(0, generator.uniform(4, 8), course.shape)
    girth = generator.uniform(0.85, 1.25)
    radii = tuple(girth * radius for radius in (14, 15, 10.5, 11, 10, 8))
    return Tube(tuple((x, y, z) for x, y, z in course.tolist()), radii, fine=0.16)


def _sample_duodenum(z: float, generator: Generator) -> Gut:
    """Draw the duodenum around the head of the pancreas."""
    course = ((-38, -30, z + 8), (-48, -10, z - 5), (-46, 4, z - 28), (-15, 8, z - 40), (12, 2, z - 32))
    content = (Tissue.GUT_FLUID, Tissue.GUT_WALL)[generator.choice(2)]
    tube = Tube(course, (generator.uniform(9, 12),) * len(course), fine=0.1)
    return Gut((tube,), content, content_below=-0.3, gas_before_y=None)


def _sample_gallbladder(generator: Generator) -> Ellipsoid | None:
    """Draw the gallbladder; some subjects have lost theirs."""
    center = _point(generator, (-56, -36), (-46, -26), (-18, 6))
    radii = _point(generator, (10, 16), (10, 16), (19, 32))
    angles = _point(generator, (0.2, 0.8), (-0.4, 0.4), (0, 0))
    absent = generator.random() < GALLBLADDER_ABSENT
    return None if absent else Ellipsoid(center, radii, angles, coarse=0.06)
