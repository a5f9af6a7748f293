"""Exports as hospitals make them, small and generated: one folder a layout, with names of people wherever one fits."""

import json

import nibabel
import numpy
import PIL.Image
from nibabel.nifti1 import Nifti1Extension
from PIL.PngImagePlugin import PngInfo

SHAPE = (12, 10, 6)
AFFINE = numpy.array([[-2.0, 0.0, 0.0, 20.0], [0.0, 3.0, 0.0, -15.0], [0.0, 0.0, 5.0, 7.0], [0.0, 0.0, 0.0, 1.0]])
NAME, DATE, NUMBER = "CANARY^EVA", "19610203", "48151623"
CANARIES = ("CANARY", "canary", DATE, NUMBER)
LABELS = {"background": 0, "liver": 1, "kidneys": 2}


def voxels(seed=0, shape=SHAPE):
    """An image and a label with both organs, on stored axes."""
    generator = numpy.random.default_rng(seed)
    label = numpy.zeros(shape, numpy.uint8)
    label[2:5, 2:5, 1:4] = 1
    label[6:9, 2:5, 2:5] = 2
    return generator.integers(-100, 900, shape).astype(numpy.int16), label


def nifti(path, array, *, affine=AFFINE, dtype=None):
    """Write a NIfTI file that tells all it can of a person."""
    image = nibabel.Nifti1Image(array, affine, dtype=dtype)
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = f"{NAME} {DATE}"[: 16 if field == "intent_name" else 18]
    image.header["data_type"] = NAME
    image.header.extensions.append(Nifti1Extension("comment", f"{NAME} {NUMBER}".encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def picture(path, array, *, mode=None, palette=None):
    """Write a PNG (with texts), BMP or TIFF."""
    image = PIL.Image.fromarray(array) if mode is None else PIL.Image.fromarray(array).convert(mode)
    if palette:
        image = PIL.Image.fromarray(array, "L").convert("P")
        image.putdata(array.ravel().tolist())
        image.putpalette(palette)
    texts = PngInfo()
    texts.add_text("Patient", f"{NAME} {DATE}")
    texts.add_itxt("Comment", NUMBER)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({"pnginfo": texts} if path.suffix == ".png" else {}))
    return path


def describe(folder, **content):
    """Write dataset.json with free texts."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"description": f"{NAME} {DATE}", "reference": NUMBER, "name": NAME}
    (folder / "dataset.json").write_text(json.dumps({**texts, **content}))
    return folder


def nnunet(folder, num_cases=3, *, ending=".nii.gz", write=nifti, channels=("MR",), labels=LABELS, make=voxels):
    """Write a site in the nnU-Net raw layout: one file a channel, cases and patients named for people."""
    rows = ["case,patient"]
    for index in range(num_cases):
        case = f"canary_{DATE}_{index}"
        image, label = make(index)
        for channel in range(len(channels)):
            write(folder / "imagesTr" / f"{case}_{channel:04d}{ending}", image)
        write(folder / "labelsTr" / f"{case}{ending}", label)
        rows.append(f"{case},{NAME}-{index // 2}")
    (folder / "patients.csv").write_text("\n".join(rows) + "\n")
    names = {str(index): name for index, name in enumerate(channels)}
    return describe(folder, channel_names=names, labels=labels, file_ending=ending, numTraining=num_cases)


def msd(folder, num_cases=2, *, num_channels=1, shift=0):
    """Write a site in the Decathlon's layout."""
    training = []
    for index in range(num_cases):
        images = [voxels(10 * index + channel)[0] + numpy.int16(shift) for channel in range(num_channels)]
        array = images[0] if num_channels == 1 else numpy.stack(images, axis=-1)
        name = f"canary_{NUMBER}_{index}.nii.gz"
        nifti(folder / "imagesTr" / name, array)
        nifti(folder / "labelsTr" / name, voxels(index)[1])
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    (folder / "imagesTr" / f"._canary_{NUMBER}_0.nii.gz").write_bytes(b"of another system")
    modality = {str(channel): "MRI" for channel in range(num_channels)}
    labels = {str(value): name for name, value in LABELS.items()}
    return describe(folder, modality=modality, labels=labels, training=training, test=["./imagesTs/x.nii.gz"])


def bids(folder, subjects=("CANARYa", "CANARYb"), *, session="ses-19610203/"):
    """Write a BIDS tree with labels in derivatives."""
    for index, subject in enumerate(subjects):
        image, label = voxels(index)
        stem = f"sub-{subject}" + (f"_{session[:-1]}" if session else "")
        nifti(folder / f"sub-{subject}/{session}anat/{stem}_T2w.nii.gz", image)
        nifti(folder / f"derivatives/manual/sub-{subject}/{session}anat/{stem}_desc-eva_dseg.nii.gz", label)
    table = "index\tname\tnote\n0\tbackground\t-\n1\tliver\tCANARY\n2\tkidneys\t-\n"
    (folder / "derivatives/manual/dseg.tsv").write_text(table)
    (folder / "dataset_description.json").write_text(json.dumps({"Name": NAME}))
    return folder


def npz(folder, num_cases=2):
    """Write slices as FedGIN names them, re-saved without pickles."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = numpy.random.default_rng(0)
    for index in range(num_cases):
        mask = numpy.zeros((40, 36), numpy.uint8)
        mask[4:9, 5:12] = 1
        image = generator.integers(0, 256, mask.shape).astype(numpy.float64)
        numpy.savez_compressed(folder / f"CT_s{NUMBER}_slice_{index}.npz", image=image, mask=mask)
    return folder


def slices(seed=0):
    """A grey slice and its label, on (row, column)."""
    generator = numpy.random.default_rng(seed)
    label = numpy.zeros((40, 36), numpy.uint8)
    label[4:9, 5:12] = 1
    label[20:29, 5:12] = 2
    return generator.integers(0, 256, label.shape).astype(numpy.uint8), label
