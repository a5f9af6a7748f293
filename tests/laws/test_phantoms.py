"""Laws of the phantoms: geometry, shapes, signal equations and contrast, each with a value that can be derived by eye."""

import math

import nibabel
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsilo import seeds
from fedsilo.cohort import roster as rosters
from fedsilo.cohort.phantoms import anatomy, cohort, contrast, noise, painting, shapes, space
from fedsilo.cohort.phantoms.anatomy import Tissue
from fedsilo.cohort.phantoms.contrast import BalancedEcho, CtScanner, MrScanner, SpoiledEcho, TurboEcho
from fedsilo.cohort.phantoms.painting import Phantom
from fedsilo.cohort.phantoms.shapes import Canvas, Ellipsoid, Tube
from fedsilo.cohort.phantoms.space import Grid
from fedsilo.errors import OutputError
from fedsilo.params import PhantomsParams

SMALL = PhantomsParams(grid_zyx=(12, 24, 32), spacing_zyx_mm=(16.0, 12.0, 12.0), inside_cases=2, outside_cases=1)
GRID = Grid(SMALL.grid_zyx, SMALL.spacing_zyx_mm, 0.0)
ORGANS = {organ: value for value, organ in enumerate(anatomy.ORGANS)}
LN2 = math.log(2)


def generator(seed):
    return seeds.numpy_generator(seed, "law")


def canvas(seed):
    """An unpainted canvas with a deformed body and both noises."""
    subject = anatomy.sample_subject(generator=generator(seed))
    at = space.apply_deformation(GRID, subject.deformation)
    return Canvas(
        x_mm=at.x_mm,
        y_mm=at.y_mm,
        z_mm=at.z_mm,
        coarse_noise=noise.smooth(subject.coarse_lattice, GRID.shape_zyx),
        fine_noise=noise.smooth(subject.fine_lattice, GRID.shape_zyx),
        cavity=numpy.ones(GRID.shape_zyx, numpy.bool_),
        tissue=numpy.zeros(GRID.shape_zyx, numpy.uint8),
    )


def halves(left, right):
    """A phantom of two tissues without texture; the border shifts by half an acquired voxel a slice, so all mixtures occur."""
    tissue = numpy.full((4, 32, 32), left, numpy.uint8)
    for index, plane in enumerate(tissue):
        plane[:, 13 + index :] = right
    return Phantom(tissue, numpy.zeros(tissue.shape, numpy.float32))


# geometry


@pytest.mark.parametrize("tilt_deg", [0.0, 4.0, -12.0])
def test_positions_are_the_affine_in_lps(tilt_deg):
    grid = Grid((3, 4, 5), (8.0, 6.0, 5.0), tilt_deg)

    at = grid.positions()

    z, y, x = 2, 1, 4
    right, front, up, _ = grid.affine @ [x, y, z, 1]
    assert [at.x_mm[z, y, x], at.y_mm[z, y, x], at.z_mm[z, y, x]] == pytest.approx([-right, -front, up], abs=1e-4)
    assert abs(at.x_mm.mean()) < 1e-4  # centred on the origin
    assert abs(at.y_mm.mean()) < 1e-4
    assert abs(at.z_mm.mean()) < 1e-4


def test_a_finer_grid_fills_the_same_box():
    fine = Grid((2, 3, 4), (8.0, 6.0, 6.0), 4.0).finer((1, 2, 2))

    coarse = Grid((2, 3, 4), (8.0, 6.0, 6.0), 4.0)
    assert fine.box_zyx_mm == coarse.box_zyx_mm
    blocks = fine.positions().y_mm.reshape(2, 1, 3, 2, 4, 2).mean(axis=(1, 3, 5))
    numpy.testing.assert_allclose(blocks, coarse.positions().y_mm, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_deformation_is_one_to_one(seed):
    at = space.apply_deformation(GRID, space.sample_deformation(generator=generator(seed)))

    # rows: x, y, z of the body; columns: steps along the grid's x, y, z
    steps = [numpy.gradient(position)[::-1] for position in (at.x_mm, at.y_mm, at.z_mm)]
    jacobian = numpy.moveaxis(numpy.array(steps), (0, 1), (-2, -1))
    assert (numpy.linalg.det(jacobian) > 0).all()  # x and y both fall: two reflections


def test_noise_has_unit_variance_and_shows_one_field_on_any_grid():
    lattice = noise.sample_lattice((5, 6, 7), generator=generator(0))

    assert noise.smooth(lattice, (24, 32, 40)).std() == pytest.approx(1, abs=1e-4)
    coarse, fine = noise.enlarge(lattice, (8, 10, 12)), noise.enlarge(lattice, (24, 30, 36))
    numpy.testing.assert_allclose(fine[1::3, 1::3, 1::3], coarse, atol=1e-4)  # centres of triples are centres of voxels


@pytest.mark.parametrize("site", list(cohort.SCANNERS))
def test_the_stored_file_has_the_head_up_and_the_spine_behind(site, tmp_path, repository):
    cohorts = [repository / "cohorts" / "demo.yaml", repository / "studies" / "fedgin" / "cohort.yaml"]
    entry = next(entry for path in cohorts for entry in rosters.load(path).sites if entry.name == site)
    params = PhantomsParams(grid_zyx=SMALL.grid_zyx, spacing_zyx_mm=SMALL.spacing_zyx_mm, inside_cases=1, outside_cases=1)
    folder = cohort.write_site(entry, params, tmp_path, seed=42)

    stored = nibabel.load(folder / "labelsTr" / f"{site}_001.nii.gz")
    labels = numpy.asanyarray(stored.dataobj)

    def middle(organ):
        return nibabel.affines.apply_affine(stored.affine, numpy.argwhere(labels == ORGANS[organ])).mean(axis=0)

    kidneys = nibabel.affines.apply_affine(stored.affine, numpy.argwhere(labels == ORGANS["kidneys"]))
    assert middle("liver")[0] > 20  # right
    assert middle("spleen")[0] < -20  # left
    assert kidneys[:, 0].min() < -20
    assert kidneys[:, 0].max() > 20
    assert middle("kidneys")[1] < middle("liver")[1]  # behind
    assert middle("kidneys")[2] < middle("spleen")[2]  # below
    assert "".join(nibabel.aff2axcodes(stored.affine)) == cohort.SCANNERS[site].axcodes


@pytest.mark.parametrize("site", ["ct-a", "ct-b", "ct-c"])
def test_lungs_lie_above_the_liver_and_bone_behind_it(site):
    image, labels = cohort.make_case(site, 1, cohort.SCANNERS[site], SMALL, seed=42)
    world = nibabel.affines.apply_affine(image.affine, numpy.argwhere(image.array > -3000)).reshape(*image.array.shape, 3)
    liver = world[labels.array == ORGANS["liver"]].mean(axis=0)

    midline_bone = world[(image.array > 250) & (numpy.abs(world[..., 0]) < 25) & (numpy.abs(world[..., 2]) < 60)]
    trunk = (numpy.abs(world[..., 0]) < 60) & (numpy.abs(world[..., 1]) < 40)
    lung = world[trunk & (image.array > -900) & (image.array < -700)]

    assert midline_bone[:, 1].mean() < liver[1] - 20
    assert lung[:, 2].mean() > liver[2] + 30


# shapes


def test_an_ellipsoid_is_zero_on_its_surface():
    x, y, z = (axis.astype(numpy.float32) for axis in numpy.meshgrid([0.0], [0.0], [0.0, 3.0, 6.0], indexing="ij")[::-1])
    flat = numpy.zeros(x.shape, numpy.float32)
    line = Canvas(x, y, z, flat, flat, flat > 0, flat.astype(numpy.uint8))

    field = Ellipsoid((0, 0, 0), (3, 1, 1)).field(line)

    assert field.ravel().tolist() == pytest.approx([-1, 0, 1])


def test_a_quarter_turn_about_x_stands_an_ellipsoid_up():
    points = numpy.array([[0, 5, 0], [0, 0, 5]], numpy.float32)  # on y, on z
    x, y, z = (points[:, axis].reshape(1, 1, 2) for axis in range(3))
    flat = numpy.zeros(x.shape, numpy.float32)
    pair = Canvas(x, y, z, flat, flat, flat > 0, flat.astype(numpy.uint8))

    field = Ellipsoid((0, 0, 0), (1, 5, 1), (math.pi / 2, 0, 0)).field(pair)

    assert field.ravel().tolist() == pytest.approx([4, 0], abs=1e-5)  # the long axis now points to the head


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), is_tube=st.booleans())
def test_the_box_of_a_shape_holds_all_of_it(seed, is_tube):
    drawn = generator(seed)
    whole = canvas(seed % 7)
    center = tuple(drawn.uniform(-60, 60, 3).tolist())
    if is_tube:
        end = tuple(drawn.uniform(-60, 60, 3).tolist())
        shape = Tube((center, end), (12.0, 20.0), fine=0.1)
    else:
        radii, angles = tuple(drawn.uniform(15, 60, 3).tolist()), tuple(drawn.uniform(-1, 1, 3).tolist())
        shape = Ellipsoid(center, radii, angles, power=2.4, coarse=0.06, fine=0.02)

    outside_box = numpy.ones(GRID.shape_zyx, numpy.bool_)
    outside_box[shapes.extents(whole).box(*shape.reach())] = False

    assert not (outside_box & (shape.field(whole) < 0)).any()


# painting


def test_most_fine_voxels_name_the_organ_and_background_wins_a_tie():
    liver, vessel, bile, fat = Tissue.LIVER, Tissue.LIVER_VESSEL, Tissue.BILE, Tissue.FAT_VISCERAL
    fine = numpy.array([[[liver, vessel, liver, fat], [bile, fat, liver, fat]]], numpy.uint8)

    labels = painting.majority_labels(fine, (1, 2, 2))

    assert labels.tolist() == [[[ORGANS["liver"], ORGANS["background"]]]]  # liver and its vessel count together


def test_each_tissue_has_values_and_each_is_painted():
    seen = set()
    for subject in range(6):
        drawn = anatomy.sample_subject(generator=generator(subject))
        seen |= set(numpy.unique(painting.paint(drawn, GRID.finer((1, 2, 2))).tissue).tolist())

    assert set(contrast.MATERIALS) == set(Tissue)
    assert seen == {int(tissue) for tissue in Tissue}


def test_some_subjects_have_no_gallbladder():
    absent = [anatomy.sample_subject(generator=generator(subject)).gallbladder is None for subject in range(200)]

    assert 0.02 < numpy.mean(absent) < 0.14  # .08 of 200, three standard errors either way


def test_a_subject_does_not_depend_on_those_drawn_before():
    scanner = cohort.SCANNERS["mr-b"]
    first = cohort.make_case("mr-b", 2, scanner, SMALL, seed=42)
    cohort.make_case("mr-b", 1, scanner, SMALL, seed=42)

    again = cohort.make_case("mr-b", 2, scanner, SMALL, seed=42)

    for before, after in zip(first, again, strict=True):
        assert before.array.tobytes() == after.array.tobytes()


def test_twins_share_the_anatomy():
    axis_aligned = [cohort.make_case("twin", 1, cohort.SCANNERS[site], SMALL, seed=42)[1] for site in ("ct-a", "mr-a")]

    as_ras = [nibabel.as_closest_canonical(nibabel.Nifti1Image(label.array, label.affine)) for label in axis_aligned]
    assert (as_ras[0].get_fdata() == as_ras[1].get_fdata()).all()


# signal equations: times chosen so that E1 = 1/2 and the echo's decay is 1/2


@pytest.mark.parametrize(("flip_deg", "saturation"), [(90, 1 / 2), (60, 1 / math.sqrt(3))])
def test_spoiled_echo(flip_deg, saturation):
    # 1/T2* = 1/70 + 1/35 = 3/70
    sequence = SpoiledEcho(repetition_ms=100 * LN2, echo_ms=70 / 3 * LN2, flip_deg=flip_deg)

    assert sequence.signal(100, 70, "1.5T") == pytest.approx(saturation / 2)
    assert sequence.signal(100, 70, "3T") < sequence.signal(100, 70, "1.5T")


def test_turbo_echo():
    sequence = TurboEcho(repetition_ms=800 * LN2, echo_ms=50 * LN2)

    assert sequence.signal(800, 50, "1.5T") == pytest.approx(1 / 4)
    assert sequence.signal(800, 50, "3T") == sequence.signal(800, 50, "1.5T")


@pytest.mark.parametrize(("flip_deg", "steady"), [(90, 4 / 7), (60, 1 / math.sqrt(3))])
def test_balanced_echo(flip_deg, steady):
    # E1 = 1/2, E2 = 1/4; at 90 degrees (1/2) / (1 - 1/8)
    sequence = BalancedEcho(repetition_ms=100 * LN2, echo_ms=50 * LN2, flip_deg=flip_deg)

    assert sequence.signal(100, 50, "1.5T") == pytest.approx(steady / 2)


# contrast


def test_signals_are_in_units_of_muscle():
    signals = contrast.sample_mr_signals(cohort.SCANNERS["mr-b"], generator=generator(0))

    assert signals.water[Tissue.MUSCLE] + signals.fat[Tissue.MUSCLE] == pytest.approx(1)
    assert signals.water[Tissue.AIR] == signals.fat[Tissue.AIR] == 0
    assert signals.fat[Tissue.FAT_VISCERAL] > 5 * signals.water[Tissue.FAT_VISCERAL]


@pytest.mark.parametrize(
    ("phase", "brighter", "darker"),
    [
        ("non_contrast", Tissue.LIVER, Tissue.SPLEEN),
        ("arterial", Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA),
        ("arterial", Tissue.BLOOD, Tissue.LIVER),
        ("portal", Tissue.LIVER_VESSEL, Tissue.LIVER),
    ],
)
def test_contrast_agent_orders_tissues(phase, brighter, darker):
    drawn = [contrast.sample_ct_numbers(phase, offset_hu=0, generator=generator(subject)) for subject in range(60)]
    mean = numpy.mean(drawn, axis=0)

    assert mean[brighter] > mean[darker] + 5


def test_an_offset_moves_soft_tissue_only():
    still, moved = (contrast.sample_ct_numbers("portal", offset_hu=offset, generator=generator(0)) for offset in (0.0, 5.0))

    difference = moved - still
    assert difference[Tissue.LIVER] == pytest.approx(5, abs=1e-3)
    assert difference[[Tissue.AIR, Tissue.GAS, Tissue.LUNG, Tissue.CORTICAL_BONE]].tolist() == [0, 0, 0, 0]


def test_ct_of_one_tissue_without_noise_is_its_number():
    scanner = CtScanner("portal", noise_hu=0, kernel=0.5, axcodes="RAS")
    number = contrast.sample_ct_numbers("portal", offset_hu=0, generator=generator(3))[Tissue.LIVER]

    image = contrast.scan_ct(halves(Tissue.LIVER, Tissue.LIVER), scanner, (1, 2, 2), offset_hu=0, generator=generator(3))

    numpy.testing.assert_allclose(image, number, rtol=1e-4)


def test_ct_noise_has_the_protocols_size():
    scanner = CtScanner("portal", noise_hu=20, kernel=0.5, axcodes="RAS")

    image = contrast.scan_ct(halves(Tissue.LIVER, Tissue.LIVER), scanner, (1, 2, 2), offset_hu=0, generator=generator(3))

    assert 20 * 0.8 <= image.std() <= 20 * 1.25


def line_across(fat):
    """Signal of each slice across a border of muscle (left) and fat (right), almost without noise or bias."""
    scanner = MrScanner(SpoiledEcho(110, 4.6, 80), "1.5T", fat, snr=1e5, bias=0.0, axcodes="RAS")
    image = contrast.scan_mr(halves(Tissue.MUSCLE, Tissue.FAT_VISCERAL), scanner, (1, 2, 2), generator=generator(1))
    return image.mean(axis=1)


def test_opposed_phase_draws_a_dark_line_between_water_and_fat():
    opposed, in_phase = line_across("opposed"), line_across("in_phase")

    border, muscle, fat = slice(5, 11), 2, 13
    assert opposed[:, border].min() < 0.5 * min(opposed[:, muscle].min(), opposed[:, fat].min())
    assert in_phase[:, border].min() > 0.9 * min(in_phase[:, muscle].min(), in_phase[:, fat].min())


def test_fat_is_bright_in_phase_and_dark_saturated():
    in_phase, saturated = line_across("in_phase"), line_across("saturated")

    muscle, fat = 2, 13
    assert (in_phase[:, fat] > 1.5 * in_phase[:, muscle]).all()
    assert (saturated[:, fat] < saturated[:, muscle]).all()


# failures


def test_a_root_that_is_a_file_cannot_be_written(tmp_path, repository):
    site = rosters.load(repository / "cohorts" / "demo.yaml").site("ct-c")
    (tmp_path / "raw").write_text("a file")

    with pytest.raises(OutputError, match="cannot write"):
        cohort.write_site(site, SMALL, tmp_path / "raw", seed=42)


def test_a_smaller_cohort_leaves_nothing_of_a_larger_one(tmp_path, repository):
    site = rosters.load(repository / "cohorts" / "demo.yaml").site("ct-c")
    sizes = [SMALL.model_copy(update={"outside_cases": count}) for count in (2, 1)]

    for params in sizes:
        folder = cohort.write_site(site, params, tmp_path, seed=42)

    assert [path.name for path in (folder / "imagesTr").iterdir()] == ["ct-c_001_0000.nii.gz"]
    assert [path.name for path in tmp_path.iterdir()] == ["ct-c"]
