"""Three small sites in which every case has one fault, or none: what a data contract must tell apart."""

import gzip
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy
import PIL.Image
import PIL.PngImagePlugin
from scipy import ndimage

from fedsilo.cohort import volumes
from fedsilo.cohort.volumes import Volume
from tests.unit import raw_site

SHAPE = (40, 36, 14)
AFFINE = numpy.diag([6.0, 6.0, 8.0, 1.0])
LABELS = {"background": 0, "liver": 1, "kidneys": 2}
NUM_CLEAN = 3
PERSON = "Grausam^Hannelore"


@dataclass(frozen=True)
class Fault:
    """One fault: where it is planted, the rules that must find it, and words of the finding."""

    name: str
    site: str
    rules: tuple[str, ...]
    says: str
    plant: Callable[[Path, str], object]


def image(seed, *, modality="MR", shape=SHAPE):
    """A smooth image in the usual range of its modality; no two look alike."""
    field = ndimage.gaussian_filter(numpy.random.default_rng(seed).normal(size=shape), 2.5, mode="wrap")
    field = (field - field.min()) / (field.max() - field.min())
    if modality == "CT":
        return (field * 1400 - 1000).astype(numpy.int16)
    return (field * 900).astype(numpy.int16)


def label(shape=SHAPE):
    """A liver and kidneys, both whole."""
    found = numpy.zeros(shape, numpy.uint8)
    found[5:22, 5:24, 3:10] = 1
    found[26:35, 8:17, 4:10] = 2
    return found


def seed_of(case):
    return zlib.crc32(case.encode())


def volume(folder, case, *, modality="MR", change=None, change_label=None, affine=AFFINE, label_affine=None):
    """Write a clean case with one thing changed."""
    voxels, values = image(seed_of(case), modality=modality), label()
    raw_site.write_case(
        folder,
        case,
        voxels if change is None else change(voxels),
        values if change_label is None else change_label(values),
        affine=affine,
        label_affine=label_affine,
    )


def path(folder, case, *, of_label=False):
    return folder / (f"labelsTr/{case}.nii.gz" if of_label else f"imagesTr/{case}_0000.nii.gz")


def changed(**arguments):
    """Plant a case with something else in it."""
    return lambda folder, case: volume(folder, case, **arguments)


def damaged(damage, *, of_label=False):
    """Plant a clean case, then damage the bytes of its file."""

    def plant(folder, case):
        volume(folder, case)
        file = path(folder, case, of_label=of_label)
        file.write_bytes(damage(file.read_bytes()))

    return plant


def header(edit, *, of_label=False, extension=None):
    """Plant a clean case, then edit its NIfTI header."""

    def plant(folder, case):
        volume(folder, case)
        file = path(folder, case, of_label=of_label)
        content = bytearray(gzip.decompress(file.read_bytes()))
        if edit is not None:
            edit(content)
        if extension is not None:
            found = nibabel.Nifti1Image.from_bytes(bytes(content))
            found.header.extensions.append(nibabel.nifti1.Nifti1Extension(*extension))
            content = found.to_bytes()
        file.write_bytes(gzip.compress(bytes(content)))

    return plant


def text(offset, content):
    """Write characters into the header."""

    def edit(found):
        found[offset : offset + len(content)] = content.encode()

    return edit


def number(kind, offset, *values):
    """Write numbers into the header."""
    return lambda found: struct.pack_into(f"<{len(values)}{kind}", found, offset, *values)


def turned(degrees, axis):
    """An affine turned about an axis."""
    angle = numpy.radians(degrees)
    first, second = [place for place in range(3) if place != axis]
    turn = numpy.eye(4)
    turn[first, first] = turn[second, second] = numpy.cos(angle)
    turn[first, second], turn[second, first] = -numpy.sin(angle), numpy.sin(angle)
    return turn


def sheared(cosine):
    """An affine whose first two axes are not at right angles."""
    found = AFFINE.copy()
    found[0, 1] = cosine * AFFINE[1, 1]
    return found


def moved(*millimetres):
    found = AFFINE.copy()
    found[:3, 3] = millimetres
    return found


def put(value, *, dtype=None, count=1):
    """Overwrite the first voxels."""

    def change(array):
        found = array.astype(dtype or array.dtype)
        found.reshape(-1)[:count] = value
        return found

    return change


def filled(value):
    return lambda array: numpy.full_like(array, value)


def mostly(share):
    """Set a share of the voxels to the minimum."""

    def change(array):
        found = array.copy()
        found[found < numpy.quantile(found, share)] = 0
        return found

    return change


def copied(original, copy):
    """Plant a copy of a clean case."""

    def plant(folder, case):
        volume(folder, case)
        found = nibabel.load(path(folder, original))
        voxels, affine = copy(numpy.asanyarray(found.dataobj), numpy.asarray(found.affine))
        volumes.write_nifti(Volume(voxels, affine), path(folder, case))
        labels = nibabel.load(path(folder, original, of_label=True))
        voxels, affine = copy(numpy.asanyarray(labels.dataobj), numpy.asarray(labels.affine))
        volumes.write_nifti(Volume(voxels, affine), path(folder, case, of_label=True))

    return plant


def reoriented(array, affine):
    """The same image, stored on other axes."""
    found = nibabel.Nifti1Image(array, affine)
    change = nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(affine), [[1, -1], [2, 1], [0, -1]])
    stored = found.as_reoriented(change)
    return numpy.asanyarray(stored.dataobj), numpy.asarray(stored.affine)


def missing(*, of_label):
    def plant(folder, case):
        volume(folder, case)
        path(folder, case, of_label=of_label).unlink()

    return plant


def linked(folder, case):
    """An image that is a link to itself."""
    volume(folder, case)
    path(folder, case).unlink()
    path(folder, case).symlink_to(path(folder, case).name)


def folder_as_file(folder, case):
    volume(folder, case)
    path(folder, case).unlink()
    path(folder, case).mkdir()


def dtype(kind):
    """Store the image with another kind of voxel."""

    def plant(folder, case):
        volume(folder, case)
        voxels = numpy.zeros(SHAPE, kind)
        path(folder, case).write_bytes(gzip.compress(nibabel.Nifti1Image(voxels, AFFINE, dtype=kind).to_bytes()))

    return plant


def picture(shape=(64, 72), seed=0):
    """A slice and its label."""
    values = numpy.zeros(shape, numpy.uint8)
    values[8:18, 8:20] = 1
    return (image(seed, shape=(*shape, 1))[..., 0] % 256).astype(numpy.uint8), values


def drawn(mode="L", *, label_mode="L", shape=(64, 72), change_label=None, info=None, kind="PNG"):
    """Plant a slice whose pixels are stored in another way."""

    def plant(folder, case):
        pixels, values = picture(shape, seed_of(case))
        values = values if change_label is None else change_label(values)
        for name, array, stored in ((f"imagesTr/{case}_0000.png", pixels, mode), (f"labelsTr/{case}.png", values, label_mode)):
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            made = PIL.Image.fromarray(array)
            if stored == "I;16":
                made = PIL.Image.fromarray(array.astype(numpy.uint16) * 200)
            elif stored != "L":
                made = made.convert(stored)
            made.save(file, kind, pnginfo=info() if info and "imagesTr" in name else None)

    return plant


def scrawled(folder, case):
    """A slice whose file says more pixels than memory can hold."""
    drawn()(folder, case)
    size = struct.pack(">II", 60000, 60000) + b"\x08\x00\x00\x00\x00"
    chunk = b"IHDR" + size
    file = folder / f"imagesTr/{case}_0000.png"
    body = file.read_bytes()
    file.write_bytes(body[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + body[33:])


def cut(share):
    def plant(folder, case):
        drawn()(folder, case)
        file = folder / f"imagesTr/{case}_0000.png"
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])

    return plant


def note():
    found = PIL.PngImagePlugin.PngInfo()
    found.add_text("Comment", PERSON)
    return found


def appended(folder, case):
    """Plant a picture with a name behind its end."""
    drawn()(folder, case)
    file = folder / f"imagesTr/{case}_0000.png"
    file.write_bytes(file.read_bytes() + PERSON.encode())
