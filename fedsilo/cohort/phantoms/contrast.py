"""How tissues look to a scanner: CT in Hounsfield units, MR through the signal equation of its sequence.

Tissue values are literature means where there are any (see ``MATERIALS``); a subject's own values scatter around them.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy
from jaxtyping import Float32
from numpy.random import Generator
from scipy import fft, ndimage

from fedsilo.cohort.phantoms import noise
from fedsilo.cohort.phantoms.anatomy import Tissue
from fedsilo.cohort.phantoms.painting import Phantom

Phase = Literal["non_contrast", "arterial", "portal"]
FieldStrength = Literal["1.5T", "3T"]
PHASES: tuple[Phase, ...] = ("non_contrast", "arterial", "portal")
T2_PRIME_MS = {"1.5T": 35.0, "3T": 22.0}
"""Dephasing by field inhomogeneity: ``1 / T2* = 1 / T2 + 1 / T2'``."""

PROTON_DENSITY_SD, T1_SD, T2_SD = 0.04, 0.08, 0.12
CT_TEXTURE_HU, CT_OFFSET_HU = 90.0, 4.0
CT_RANGE_HU = (-1024.0, 1500.0)
DOSE_RANGE = (0.8, 1.25)
MR_KERNEL = 0.6
MR_BIAS_NODES = (3, 3, 4)
MR_GAIN_RANGE = (200.0, 900.0)
SUPPRESSED_FAT_RANGE = (0.05, 0.2)
PARTIAL_FOURIER_CHANCE, PARTIAL_FOURIER_SHARE = 0.5, 0.12
THROUGH_PLANE_KERNEL, KERNEL_SIGMAS = 0.35, 3.0


@dataclass(frozen=True)
class GammaShare:
    """A fat fraction that varies between subjects: gamma distributed, cut at ``highest``."""

    shape: float
    scale: float
    highest: float


@dataclass(frozen=True)
class Material:
    """Physical values of a tissue.

    Attributes:
        hu: CT number without contrast agent, in the arterial and in the portal phase.
        hu_sd: Its standard deviation between subjects.
        proton_density: Relative to water.
        relaxation_ms: T1 and T2 of the water part at 1.5 T, then at 3 T.
        fat: Share of fat in the signal-giving protons.
        texture: Relative standard deviation within the tissue.
    """

    hu: tuple[float, float, float]
    hu_sd: float
    proton_density: float
    relaxation_ms: tuple[tuple[float, float], tuple[float, float]]
    fat: float | GammaShare = 0.0
    texture: float = 0.0


# Bold in docs: 3 T liver, kidney, spleen, pancreas, muscle, fat and marrow follow de Bazelaire et al., Radiology 2004;
# CT numbers of liver, spleen and pancreas without contrast agent are published means; the rest is plausible.
MATERIALS: dict[Tissue, Material] = {
    Tissue.AIR: Material((-1000, -1000, -1000), 0, 0.0, ((1000, 5), (1000, 5))),
    Tissue.SKIN: Material((30, 35, 40), 4, 0.70, ((400, 35), (450, 30)), fat=0.3),
    Tissue.FAT_SUBCUTANEOUS: Material((-105, -105, -105), 4, 1.0, ((343, 58), (382, 68)), fat=0.95, texture=0.05),
    Tissue.MUSCLE: Material((55, 58, 65), 6, 0.75, ((856, 27), (898, 29)), fat=0.03, texture=0.07),
    Tissue.FAT_VISCERAL: Material((-98, -98, -98), 4, 1.0, ((343, 58), (382, 68)), fat=0.93, texture=0.06),
    Tissue.CORTICAL_BONE: Material((700, 700, 700), 120, 0.08, ((500, 2), (500, 2)), fat=0.3),
    Tissue.MARROW: Material((170, 175, 180), 50, 0.55, ((549, 49), (586, 49)), fat=0.5, texture=0.15),
    Tissue.DISC: Material((85, 85, 88), 4, 0.60, ((1100, 75), (1200, 70))),
    Tissue.CSF: Material((12, 12, 12), 4, 1.0, ((3500, 1500), (4000, 1400))),
    Tissue.LUNG: Material((-830, -830, -830), 4, 0.15, ((1200, 25), (1300, 20)), texture=0.25),
    Tissue.HEART: Material((42, 210, 140), 15, 0.85, ((1030, 45), (1300, 42)), fat=0.02),
    Tissue.BLOOD: Material((42, 300, 160), 20, 0.90, ((1441, 250), (1932, 200))),
    Tissue.LIVER: Material((58, 68, 108), 9, 0.80, ((586, 46), (809, 34)), fat=GammaShare(1.3, 0.04, 0.35), texture=0.035),
    Tissue.LIVER_VESSEL: Material((42, 110, 172), 16, 0.90, ((1441, 250), (1932, 200))),
    Tissue.KIDNEY_CORTEX: Material((32, 165, 190), 18, 0.85, ((966, 87), (1142, 76)), fat=0.02, texture=0.05),
    Tissue.KIDNEY_MEDULLA: Material((30, 60, 165), 18, 0.90, ((1412, 85), (1545, 81)), fat=0.02, texture=0.06),
    Tissue.SPLEEN: Material((48, 125, 122), 10, 0.85, ((1057, 79), (1328, 61)), texture=0.03),
    Tissue.PANCREAS: Material((49, 100, 92), 12, 0.82, ((584, 46), (725, 43)), fat=GammaShare(2.0, 0.05, 0.40), texture=0.10),
    Tissue.GALLBLADDER_WALL: Material((30, 45, 65), 4, 0.80, ((950, 65), (1150, 55)), fat=0.02),
    Tissue.BILE: Material((8, 8, 10), 6, 1.0, ((2500, 450), (2800, 400))),
    Tissue.GUT_WALL: Material((38, 70, 85), 12, 0.80, ((950, 65), (1150, 55)), fat=0.03, texture=0.10),
    Tissue.GUT_FLUID: Material((12, 12, 14), 15, 1.0, ((2600, 350), (2900, 300))),
    Tissue.STOOL: Material((35, 35, 35), 35, 0.70, ((500, 60), (600, 50)), fat=0.1, texture=0.35),
    Tissue.GAS: Material((-980, -980, -980), 4, 0.01, ((1000, 5), (1000, 5))),
}
"""Values of each tissue."""

SOFT_TISSUES = frozenset(Tissue) - {Tissue.AIR, Tissue.GAS, Tissue.LUNG, Tissue.CORTICAL_BONE}
"""Tissues whose CT number a scanner's offset moves."""


@dataclass(frozen=True)
class SpoiledEcho:
    """A spoiled gradient echo (SPGR, FLASH)."""

    repetition_ms: float
    echo_ms: float
    flip_deg: float

    def signal(self, t1_ms: float, t2_ms: float, field: FieldStrength) -> float:
        """``sin a (1 - E1) / (1 - E1 cos a) exp(-TE / T2*)`` with ``E1 = exp(-TR / T1)``."""
        flip = math.radians(self.flip_deg)
        e1 = math.exp(-self.repetition_ms / t1_ms)
        decay = math.exp(-self.echo_ms * (1 / t2_ms + 1 / T2_PRIME_MS[field]))
        return math.sin(flip) * (1 - e1) / (1 - math.cos(flip) * e1) * decay


@dataclass(frozen=True)
class TurboEcho:
    """A turbo spin echo (TSE, FSE) with 90 degrees of excitation."""

    repetition_ms: float
    echo_ms: float

    def signal(self, t1_ms: float, t2_ms: float, field: FieldStrength) -> float:  # noqa: ARG002  # one interface
        """``(1 - exp(-TR / T1)) exp(-TE / T2)``; refocused, so the field's inhomogeneity does not matter."""
        return (1 - math.exp(-self.repetition_ms / t1_ms)) * math.exp(-self.echo_ms / t2_ms)


@dataclass(frozen=True)
class BalancedEcho:
    """Balanced steady-state free precession (bSSFP, TrueFISP)."""

    repetition_ms: float
    echo_ms: float
    flip_deg: float

    def signal(self, t1_ms: float, t2_ms: float, field: FieldStrength) -> float:  # noqa: ARG002  # one interface
        """``sin a (1 - E1) / (1 - (E1 - E2) cos a - E1 E2) exp(-TE / T2)`` with ``E1, E2 = exp(-TR / T1), exp(-TR / T2)``."""
        flip = math.radians(self.flip_deg)
        e1, e2 = math.exp(-self.repetition_ms / t1_ms), math.exp(-self.repetition_ms / t2_ms)
        return math.sin(flip) * (1 - e1) / (1 - (e1 - e2) * math.cos(flip) - e1 * e2) * math.exp(-self.echo_ms / t2_ms)


@dataclass(frozen=True)
class CtScanner:
    """A CT protocol.

    Attributes:
        phase: Of the contrast agent.
        noise_hu: Standard deviation of the noise at mean dose.
        kernel: In-plane blur, standard deviation in acquired voxels.
        axcodes: Where the stored axes point.
        tilt_deg: Of the acquired grid about the x axis.
    """

    phase: Phase
    noise_hu: float
    kernel: float
    axcodes: str
    tilt_deg: float = 0.0


@dataclass(frozen=True)
class MrScanner:
    """An MR protocol.

    Attributes:
        sequence: Gives the signal equation and its times.
        field: Strength of the main field.
        fat: In phase with water, opposed to it, or saturated.
        snr: 90th percentile of the image over the noise's standard deviation.
        bias: Standard deviation of the logarithm of the coils' sensitivity.
        axcodes: Where the stored axes point.
        tilt_deg: Of the acquired grid about the x axis.
    """

    sequence: SpoiledEcho | TurboEcho | BalancedEcho
    field: FieldStrength
    fat: Literal["in_phase", "opposed", "saturated"]
    snr: float
    bias: float
    axcodes: str
    tilt_deg: float = 0.0


Scanner = CtScanner | MrScanner


@dataclass(frozen=True)
class MrSignals:
    """A subject's MR signal of water and of fat in each tissue, in units of its muscle."""

    water: Float32[numpy.ndarray, " tissues"]
    fat: Float32[numpy.ndarray, " tissues"]


def sample_ct_numbers(phase: Phase, *, offset_hu: float, generator: Generator) -> Float32[numpy.ndarray, " tissues"]:
    """Draw a subject's CT number of each tissue.

    Args:
        phase: Of the contrast agent.
        offset_hu: The scanner's error on soft tissue.
        generator: Of the subject at its scanner.
    """
    column = PHASES.index(phase)
    scatter = generator.standard_normal(len(Tissue))
    numbers = [
        MATERIALS[tissue].hu[column] + MATERIALS[tissue].hu_sd * scatter[tissue] + offset_hu * (tissue in SOFT_TISSUES)
        for tissue in Tissue
    ]
    return numpy.array(numbers, numpy.float32)


def sample_mr_signals(scanner: MrScanner, *, generator: Generator) -> MrSignals:
    """Draw a subject's MR signals: proton density, T1 and T2 scatter log-normally by tissue, the fat fraction by gamma.

    Water is ``PD (1 - FF) S(T1, T2)``, fat ``PD FF S(T1, T2 of fat)``; both divided by water and fat of muscle.
    """
    column = 0 if scanner.field == "1.5T" else 1
    scatter = numpy.exp(generator.standard_normal((len(Tissue), 3)) * (PROTON_DENSITY_SD, T1_SD, T2_SD))
    share = {tissue: _fat_share(MATERIALS[tissue].fat, generator) for tissue in Tissue}

    def signal(tissue: Tissue) -> float:
        t1_ms, t2_ms = MATERIALS[tissue].relaxation_ms[column]
        return scanner.sequence.signal(t1_ms * scatter[tissue, 1], t2_ms * scatter[tissue, 2], scanner.field)

    density = {tissue: MATERIALS[tissue].proton_density * scatter[tissue, 0] for tissue in Tissue}
    pure_fat = signal(Tissue.FAT_SUBCUTANEOUS)
    water = numpy.array([density[tissue] * (1 - share[tissue]) * signal(tissue) for tissue in Tissue])
    fat = numpy.array([density[tissue] * share[tissue] * pure_fat for tissue in Tissue])
    unit = water[Tissue.MUSCLE] + fat[Tissue.MUSCLE]
    return MrSignals((water / unit).astype(numpy.float32), (fat / unit).astype(numpy.float32))


def scan_ct(
    phantom: Phantom, scanner: CtScanner, factors_zyx: tuple[int, int, int], *, offset_hu: float, generator: Generator
) -> Float32[numpy.ndarray, "k j i"]:
    """Take a CT image of a phantom.

    Args:
        phantom: On the fine grid.
        scanner: The protocol.
        factors_zyx: Fine voxels in an acquired one.
        offset_hu: The scanner's error on soft tissue.
        generator: Of the subject at its scanner.

    Returns:
        Hounsfield units on the acquired grid.
    """
    numbers = sample_ct_numbers(scanner.phase, offset_hu=offset_hu, generator=generator)
    textures = _textures()
    fine = numbers[phantom.tissue] + CT_TEXTURE_HU * textures[phantom.tissue] * phantom.texture
    image = _down(fine, factors_zyx, scanner.kernel)
    white = generator.standard_normal(image.shape, dtype=numpy.float32)
    # filtered back projection: noise lacks low frequencies, and the kernel that blurs the image blurs it too
    grain = white - 0.6 * ndimage.gaussian_filter(white, (0, 1.5, 1.5), mode="nearest")
    grain = ndimage.gaussian_filter(grain, (0.3, 0.8 * scanner.kernel, 0.8 * scanner.kernel), mode="nearest")
    sigma = scanner.noise_hu * generator.uniform(*DOSE_RANGE)
    return numpy.clip(image + grain * (sigma / grain.std()), *CT_RANGE_HU).astype(numpy.float32)


def scan_mr(
    phantom: Phantom, scanner: MrScanner, factors_zyx: tuple[int, int, int], *, generator: Generator
) -> Float32[numpy.ndarray, "k j i"]:
    """Take an MR image of a phantom.

    Water and fat are averaged over a voxel before they are combined: where they share one, an opposed-phase image is dark.

    Args:
        phantom: On the fine grid.
        scanner: The protocol.
        factors_zyx: Fine voxels in an acquired one.
        generator: Of the subject at its scanner.

    Returns:
        Magnitude in arbitrary units on the acquired grid, not negative.
    """
    signals = sample_mr_signals(scanner, generator=generator)
    modulation = numpy.maximum(1 + _textures()[phantom.tissue] * phantom.texture, 0)
    water = _down(signals.water[phantom.tissue] * modulation, factors_zyx, MR_KERNEL)
    fat = _down(signals.fat[phantom.tissue] * modulation, factors_zyx, MR_KERNEL)
    remaining_fat = generator.uniform(*SUPPRESSED_FAT_RANGE)
    if scanner.fat == "in_phase":
        image = water + fat
    elif scanner.fat == "opposed":
        image = numpy.abs(water - fat)
    else:
        image = water + remaining_fat * fat
    sensitivity = noise.smooth(noise.sample_lattice(MR_BIAS_NODES, generator=generator), image.shape)
    image = image * numpy.exp(scanner.bias * sensitivity)
    cut, share = generator.random() < PARTIAL_FOURIER_CHANCE, generator.uniform(0, PARTIAL_FOURIER_SHARE)
    if cut:
        image = _without_outer_lines(image, int(image.shape[1] * share))
    real, imaginary = generator.standard_normal((2, *image.shape), dtype=numpy.float32) * (
        float(numpy.percentile(image, 90)) / scanner.snr
    )
    gain = generator.uniform(*MR_GAIN_RANGE)
    return (numpy.hypot(image + real, imaginary) * gain).astype(numpy.float32)


def _fat_share(fat: float | GammaShare, generator: Generator) -> float:
    """Draw a subject's fat fraction of a tissue."""
    if isinstance(fat, GammaShare):
        return min(generator.gamma(fat.shape, fat.scale), fat.highest)
    return fat


def _textures() -> Float32[numpy.ndarray, " tissues"]:
    return numpy.array([MATERIALS[tissue].texture for tissue in Tissue], numpy.float32)


def _down(
    fine: Float32[numpy.ndarray, "z y x"], factors_zyx: tuple[int, int, int], kernel: float
) -> Float32[numpy.ndarray, "k j i"]:
    """Blur with the scanner's kernel, in acquired voxels, and average the fine voxels of each acquired one."""
    sigmas = [width * factor for width, factor in zip((THROUGH_PLANE_KERNEL, kernel, kernel), factors_zyx, strict=True)]
    blurred = ndimage.gaussian_filter(fine, sigmas, mode="nearest", truncate=KERNEL_SIGMAS)
    blocks = [edge for n, factor in zip(fine.shape, factors_zyx, strict=True) for edge in (n // factor, factor)]
    return numpy.asarray(blurred.reshape(blocks).mean(axis=(1, 3, 5), dtype=numpy.float32))


def _without_outer_lines(image: Float32[numpy.ndarray, "k j i"], num_lines: int) -> Float32[numpy.ndarray, "k j i"]:
    """Zero the outermost lines of k-space at both ends of y: fine detail goes, edges ring."""
    lines = fft.rfft(image, axis=1)
    lines[:, lines.shape[1] - num_lines :] = 0
    return numpy.asarray(fft.irfft(lines, n=image.shape[1], axis=1), numpy.float32)
