"""Show a subject on a grid: which tissue each fine voxel holds, and which organ each acquired voxel.

Structures are painted from the outside in; a later one covers an earlier one.
"""

from dataclasses import dataclass
from typing import cast

import numpy
from jaxtyping import Bool, Float32, UInt8

from fedsilo.cohort.phantoms import noise, shapes, space
from fedsilo.cohort.phantoms.anatomy import ORGAN_OF, ORGANS, Body, Gut, Kidney, Subject, Tissue
from fedsilo.cohort.phantoms.shapes import Canvas, Cylinder, Ellipsoid, Extents, Point, Tube
from fedsilo.cohort.phantoms.space import Grid

SKIN_MM = 2
CAVITY_Y_MM = -6
RIB_HALF_HEIGHT_MM, MARROW_HALF_HEIGHT_MM = 5, 2.8
DIAPHRAGM_MM = 4
CORTEX_DEPTH, PELVIS_DEPTH = -0.24, -0.52
PYRAMID_EDGE = -0.15
LIVER_KIDNEY_GAP = 0.06
GALLBLADDER_WALL = -0.13
VERTEBRA_MM, DISC_MM = 36, 8

GUT_TISSUES = (Tissue.FAT_VISCERAL, Tissue.GUT_WALL, Tissue.GUT_FLUID, Tissue.STOOL, Tissue.GAS)
"""What fills the cavity between the solid organs."""

CHEST_TISSUES = (Tissue.LUNG, Tissue.HEART)


@dataclass(frozen=True)
class Phantom:
    """A painted subject.

    Attributes:
        tissue: Value of ``Tissue`` of each fine voxel.
        texture: Field of unit variance that modulates signals within a tissue.
    """

    tissue: UInt8[numpy.ndarray, "z y x"]
    texture: Float32[numpy.ndarray, "z y x"]


def paint(subject: Subject, grid: Grid) -> Phantom:
    """Paint a subject on a fine grid."""
    canvas = _blank(subject, grid)
    found = shapes.extents(canvas)
    body = subject.body
    _paint_wall(canvas, body)
    _paint_ribs(canvas, body)
    for muscle in subject.muscles:
        part = canvas.crop(found.box(*muscle.reach()))
        _fill(part, (muscle.field(part) < 0) & ~_holds(part, (Tissue.AIR, Tissue.SKIN)), Tissue.MUSCLE)
    _paint_chest(canvas, subject.dome_z, subject.heart, found)
    _paint_guts(canvas, (*subject.bowel, subject.stomach), found)
    for vessel in (subject.aorta, subject.cava):
        part = canvas.crop(found.box(*vessel.reach()))
        _fill(part, vessel.field(part) < 0, Tissue.BLOOD)
    for kidney in subject.kidneys:
        _paint_kidney(canvas, kidney, found)
    _paint_spleen(canvas, subject.spleen, subject.spleen_dent, found)
    _paint_liver(canvas, subject, found)
    _paint_pancreas(canvas, subject.pancreas, subject.splenic_vein, found)
    _paint_guts(canvas, (subject.duodenum,), found)
    if subject.gallbladder is not None:
        _paint_gallbladder(canvas, subject.gallbladder, found)
    _paint_spine(canvas, body, found)
    return Phantom(canvas.tissue, canvas.fine_noise)


def majority_labels(tissue: UInt8[numpy.ndarray, "z y x"], factors_zyx: tuple[int, int, int]) -> UInt8[numpy.ndarray, "k j i"]:
    """Label each acquired voxel with the organ that most of its fine voxels show; of equals the lowest value wins."""
    organ_of = numpy.zeros(len(Tissue), numpy.uint8)
    for member, organ in ORGAN_OF.items():
        organ_of[member] = organ
    organs = organ_of[tissue]
    blocks = [edge for n, factor in zip(tissue.shape, factors_zyx, strict=True) for edge in (n // factor, factor)]
    votes = [(organs == value).reshape(blocks).sum(axis=(1, 3, 5), dtype=numpy.uint8) for value in range(len(ORGANS))]
    return numpy.argmax(numpy.stack(votes), axis=0).astype(numpy.uint8)


def _blank(subject: Subject, grid: Grid) -> Canvas:
    """Prepare the canvas of a subject: positions, noise, cavity and no tissue yet."""
    at = space.apply_deformation(grid, subject.deformation)
    canvas = Canvas(
        x_mm=at.x_mm,
        y_mm=at.y_mm,
        z_mm=at.z_mm,
        coarse_noise=noise.smooth(subject.coarse_lattice, grid.shape_zyx),
        fine_noise=noise.smooth(subject.fine_lattice, grid.shape_zyx),
        cavity=numpy.zeros(grid.shape_zyx, numpy.bool_),
        tissue=numpy.full(grid.shape_zyx, Tissue.AIR, numpy.uint8),
    )
    body = subject.body
    wall = Cylinder(body.cavity_x, body.cavity_y, center_y=CAVITY_Y_MM, coarse=0.02)
    canvas.cavity[:] = wall.field(canvas) < 0
    return canvas


def _fill(canvas: Canvas, where: Bool[numpy.ndarray, "z y x"], tissue: Tissue) -> None:
    """Paint a tissue."""
    canvas.tissue[where] = tissue


def _holds(canvas: Canvas, tissues: tuple[Tissue, ...]) -> Bool[numpy.ndarray, "z y x"]:
    """Find the voxels that hold one of some tissues."""
    is_one = numpy.zeros(len(Tissue), numpy.bool_)
    is_one[list(tissues)] = True
    return is_one[canvas.tissue]


def _paint_wall(canvas: Canvas, body: Body) -> None:
    skin = Cylinder(body.half_x, body.half_y)
    fat = Cylinder(body.half_x - SKIN_MM, body.half_y - SKIN_MM)
    muscle = Cylinder(body.half_x - body.fat, body.half_y - 0.8 * body.fat, coarse=0.02)
    for layer, tissue in ((skin, Tissue.SKIN), (fat, Tissue.FAT_SUBCUTANEOUS), (muscle, Tissue.MUSCLE)):
        _fill(canvas, layer.field(canvas) < 0, tissue)
    _fill(canvas, canvas.cavity, Tissue.FAT_VISCERAL)


def _paint_ribs(canvas: Canvas, body: Body) -> None:
    """Paint rings in the muscle that fall towards the front; the lowest do not reach it."""
    depth = numpy.abs(Cylinder(body.cavity_x + body.muscle / 2, body.cavity_y + body.muscle / 2).field(canvas))
    thickness = 10 / (body.cavity_x + body.cavity_y)
    allowed = (depth < thickness) & (canvas.z_mm > -0.3 * canvas.y_mm - 40) & ~_holds(canvas, (Tissue.AIR, Tissue.SKIN))
    for height in body.rib_heights:
        distance = numpy.abs(canvas.z_mm - height - 0.45 * canvas.y_mm)
        _fill(canvas, allowed & (distance < RIB_HALF_HEIGHT_MM), Tissue.CORTICAL_BONE)
        _fill(canvas, allowed & (distance < MARROW_HALF_HEIGHT_MM) & (depth < thickness / 2), Tissue.MARROW)


def _paint_chest(canvas: Canvas, dome_z: float, heart: Ellipsoid, found: Extents) -> None:
    """Paint lung above the diaphragm's two domes, then the heart in it."""
    fall = (0.55 * (numpy.abs(canvas.x_mm) - 40) ** 2 + (canvas.y_mm + 5) ** 2) / 190
    above_dome = canvas.z_mm - (dome_z - fall + 6 * canvas.coarse_noise)
    fat = canvas.tissue == Tissue.FAT_VISCERAL
    _fill(canvas, fat & (above_dome > -DIAPHRAGM_MM), Tissue.MUSCLE)
    _fill(canvas, fat & (above_dome > 0), Tissue.LUNG)
    part = canvas.crop(found.box(*heart.reach()))
    _fill(part, (heart.field(part) < 0) & (part.tissue == Tissue.LUNG), Tissue.HEART)


def _paint_guts(canvas: Canvas, guts: tuple[Gut, ...], found: Extents) -> None:
    """Paint wall, content and gas of each piece, where the cavity holds fat or other bowel."""
    for gut in guts:
        corners = [part.reach() for part in gut.parts]
        low = tuple(min(corner[axis] for corner, _ in corners) for axis in range(3))
        high = tuple(max(corner[axis] for _, corner in corners) for axis in range(3))
        part = canvas.crop(found.box(cast("Point", low), cast("Point", high)))
        field = numpy.minimum.reduce([shape.field(part) for shape in gut.parts])
        free = part.cavity & _holds(part, GUT_TISSUES)
        inner = free & (field < gut.content_below)
        _fill(part, free & (field < 0), Tissue.GUT_WALL)
        _fill(part, inner, gut.content)
        if gut.gas_before_y is not None:
            _fill(part, inner & (part.y_mm < gut.gas_before_y), Tissue.GAS)


def _paint_kidney(canvas: Canvas, kidney: Kidney, found: Extents) -> None:
    """Paint cortex, pyramids around the axis and inside, and fat in the hilum."""
    part = canvas.crop(found.box(*kidney.capsule.reach()))
    x, _, z = kidney.capsule.center
    field = kidney.capsule.field(part)
    below_chest = part.cavity & ~_holds(part, CHEST_TISSUES)
    around = numpy.arctan2(part.z_mm - z, kidney.side * (part.x_mm - x))
    pyramids = (field < CORTEX_DEPTH) & (numpy.cos(kidney.num_lobes * around + kidney.phase) > PYRAMID_EDGE)
    _fill(part, below_chest & (field < 0), Tissue.KIDNEY_CORTEX)
    _fill(part, below_chest & (pyramids | (field < PELVIS_DEPTH)), Tissue.KIDNEY_MEDULLA)
    _fill(part, below_chest & (field < 0) & (kidney.hilum.field(part) < 0), Tissue.FAT_VISCERAL)


def _paint_spleen(canvas: Canvas, spleen: Ellipsoid, dent: Ellipsoid, found: Extents) -> None:
    part = canvas.crop(found.box(*spleen.reach()))
    inside = (spleen.field(part) < 0) & (dent.field(part) >= 0)
    _fill(part, inside & part.cavity & ~_holds(part, CHEST_TISSUES), Tissue.SPLEEN)


def _paint_liver(canvas: Canvas, subject: Subject, found: Extents) -> None:
    """Paint both lobes without the visceral hollow, right kidney and great vessels, then the vessels in them."""
    corners = [lobe.reach() for lobe in subject.liver_lobes]
    low = tuple(min(corner[axis] for corner, _ in corners) for axis in range(3))
    high = tuple(max(corner[axis] for _, corner in corners) for axis in range(3))
    part = canvas.crop(found.box(cast("Point", low), cast("Point", high)))
    inside = numpy.minimum.reduce([lobe.field(part) for lobe in subject.liver_lobes]) < 0
    inside &= (subject.liver_dent.field(part) >= 0) & (subject.kidneys[0].capsule.field(part) >= LIVER_KIDNEY_GAP)
    inside &= part.cavity & ~_holds(part, (*CHEST_TISSUES, Tissue.BLOOD))
    _fill(part, inside, Tissue.LIVER)
    for vessel in subject.liver_vessels:
        part = canvas.crop(found.box(*vessel.reach()))
        _fill(part, (vessel.field(part) < 0) & (part.tissue == Tissue.LIVER), Tissue.LIVER_VESSEL)


def _paint_pancreas(canvas: Canvas, pancreas: Tube, splenic_vein: Tube, found: Extents) -> None:
    """Paint the pancreas and the vein behind it between the solid organs."""
    part = canvas.crop(found.box(*pancreas.reach()))
    _fill(part, (pancreas.field(part) < 0) & part.cavity & _holds(part, GUT_TISSUES), Tissue.PANCREAS)
    part = canvas.crop(found.box(*splenic_vein.reach()))
    _fill(part, (splenic_vein.field(part) < 0) & part.cavity & _holds(part, GUT_TISSUES), Tissue.BLOOD)


def _paint_gallbladder(canvas: Canvas, gallbladder: Ellipsoid, found: Extents) -> None:
    part = canvas.crop(found.box(*gallbladder.reach()))
    free = part.cavity & _holds(part, (*GUT_TISSUES, Tissue.LIVER, Tissue.LIVER_VESSEL))
    field = gallbladder.field(part)
    _fill(part, free & (field < 0), Tissue.GALLBLADDER_WALL)
    _fill(part, free & (field < GALLBLADDER_WALL), Tissue.BILE)


def _paint_spine(canvas: Canvas, body: Body, found: Extents) -> None:
    """Paint vertebrae 36 mm apart: body, disc, arch, canal, spinous and transverse processes."""
    y = body.spine_y
    part = canvas.crop(found.box((-45.0, y - 30, -numpy.inf), (45.0, y + 60, numpy.inf)))
    height = (part.z_mm + body.disc_offset) % VERTEBRA_MM
    side, behind = numpy.abs(part.x_mm), part.y_mm - y
    spinous = (side < 3.5) & (behind > 34) & (behind < 50) & (height > 12)
    transverse = (numpy.abs(side - 24) < 14) & (numpy.abs(behind - 28) < 4.5) & (height > 14) & (height < 28)
    whole = Cylinder(22, 17, center_y=y, power=2.3).field(part) < 0
    core = Cylinder(19.5, 14.5, center_y=y, power=2.3).field(part) < 0
    arch = Cylinder(15, 12, center_y=y + 26, power=2.0).field(part) < 0
    canal = Cylinder(9, 7.5, center_y=y + 25, power=2.0).field(part) < 0
    bone = (whole | arch | spinous | transverse) & ~_holds(part, (Tissue.AIR, Tissue.SKIN))
    _fill(part, bone, Tissue.CORTICAL_BONE)
    _fill(part, core, Tissue.MARROW)
    _fill(part, whole & (height < DISC_MM), Tissue.DISC)
    _fill(part, canal, Tissue.CSF)
