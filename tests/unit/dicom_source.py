"""DICOM series, SEG and RTSTRUCT as scanners and workstations write them, small, with a person in every tag."""

import datetime

import numpy
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, RTStructureSetStorage, generate_uid

from tests.unit.raw_source import DATE, NAME, NUMBER, SHAPE, voxels

ROWS, COLUMNS, NUM_SLICES = SHAPE[1], SHAPE[0], SHAPE[2]
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ORIGIN = (-20.0, -15.0, 7.0)
SPACING = (3.0, 2.0)  # of rows, of columns
GAP = 5.0


def uid(*parts):
    """The same UID for the same names."""
    return generate_uid(entropy_srcs=[str(part) for part in parts])


def person(found, patient):
    """Name a person everywhere."""
    found.PatientID, found.PatientName, found.PatientBirthDate = patient, NAME, DATE
    found.StudyDescription = found.SeriesDescription = f"{NAME} {NUMBER}"
    found.InstitutionName = found.ReferringPhysicianName = NAME
    found.StudyDate = found.SeriesDate = found.ContentDate = DATE
    found.AccessionNumber = found.StudyID = NUMBER
    found.StudyTime = found.SeriesTime = found.ContentTime = "101112"
    found.PatientSex = "O"
    block = found.private_block(0x0011, f"{NAME}", create=True)
    block.add_new(0x01, "LO", f"{NAME} {DATE}")


def slice_file(path, stored, *, series, index, position, modality="CT", orientation=AXIAL, patient=f"{NUMBER}-1", **tags):
    """Write one slice; ``stored`` is (row, column)."""
    storage = CTImageStorage if modality == "CT" else MRImageStorage
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = storage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = uid(series, "slice", index)
    found = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    person(found, patient)
    found.SOPClassUID, found.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
    found.StudyInstanceUID, found.SeriesInstanceUID = uid("study", patient), uid(series)
    found.FrameOfReferenceUID, found.Modality = uid("frame", series), modality
    found.SeriesNumber, found.InstanceNumber = 1, 1000 - index
    found.ImagePositionPatient, found.ImageOrientationPatient = [float(x) for x in position], [float(x) for x in orientation]
    found.PixelSpacing, found.SliceThickness = list(SPACING), GAP
    found.PositionReferenceIndicator, found.Laterality = "", ""
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.Rows, found.Columns = stored.shape
    found.BitsAllocated = found.BitsStored = 8 * stored.dtype.itemsize
    found.HighBit = found.BitsStored - 1
    found.PixelRepresentation = int(stored.dtype.kind == "i")
    if modality == "CT":
        found.RescaleSlope, found.RescaleIntercept = 1, -1024
    found.PatientIdentityRemoved = "NO"
    for keyword, value in tags.items():
        setattr(found, keyword, value)
    found.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save_as(path, enforce_file_format=True)
    return path


def normal(orientation=AXIAL):
    """Direction of slices."""
    return numpy.cross(orientation[:3], orientation[3:])


def series(folder, name="one", *, seed=0, orientation=AXIAL, skip=(), gap=GAP, order=None, tags_of=lambda index: {}, **tags):
    """Write a series of (i, j, k) voxels, stored value = voxel + 1024; files in a shuffled order of names."""
    image, _ = voxels(seed)
    order = order or [3, 0, 5, 1, 4, 2]
    paths = []
    for index in range(NUM_SLICES):
        if index in skip:
            continue
        position = numpy.array(ORIGIN) + gap * index * normal(orientation)
        stored = (image[:, :, index].T.astype(numpy.int32) + 1024).astype(numpy.uint16)
        path = folder / f"canary_{order[index]}_{DATE}"
        more = {**tags, **tags_of(index)}
        paths.append(slice_file(path, stored, series=name, index=index, position=position, orientation=orientation, **more))
    return paths


def affine_ras(orientation=AXIAL, gap=GAP):
    """What the series above means, written down by hand."""
    lps = numpy.eye(4)
    lps[:3, 0] = numpy.array(orientation[:3]) * SPACING[1]
    lps[:3, 1] = numpy.array(orientation[3:]) * SPACING[0]
    lps[:3, 2] = normal(orientation) * gap
    lps[:3, 3] = ORIGIN
    return numpy.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def segmentation(path, slices, label, names=("liver", "kidneys"), *, kind="BINARY", omit_empty=True, scale=1.0):
    """Write a DICOM-SEG by highdicom; ``label`` is (i, j, k) in the order of ``slices``."""
    import highdicom
    from highdicom.sr.coding import CodedConcept

    sources = [pydicom.dcmread(one) for one in slices]
    code = CodedConcept("85756007", "SCT", "Tissue")
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=code,
            segmented_property_type=code,
            algorithm_type="MANUAL",
        )
        for number, name in enumerate(names, start=1)
    ]
    masks = numpy.stack([label == number for number in range(1, len(names) + 1)], axis=-1).transpose(2, 1, 0, 3)
    pixels = masks.astype(numpy.float32) * scale if kind == "FRACTIONAL" else masks.astype(numpy.uint8)
    made = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=uid(path, "series"),
        series_number=2,
        sop_instance_uid=uid(path),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name=NAME,
        software_versions="1",
        device_serial_number=NUMBER,
        omit_empty_frames=omit_empty,
        **({"max_fractional_value": 200} if kind == "FRACTIONAL" else {}),
    )
    made.save_as(path)
    return path


def structures(path, slices, contours_of, *, kind="CLOSED_PLANAR"):
    """Write an RTSTRUCT: name -> list of (slice index, corners in LPS mm)."""
    sources = [pydicom.dcmread(one, stop_before_pixels=True) for one in slices]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = RTStructureSetStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = uid(path)
    found = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    person(found, sources[0].PatientID)
    found.SOPClassUID, found.SOPInstanceUID, found.Modality = RTStructureSetStorage, uid(path), "RTSTRUCT"
    found.SeriesInstanceUID, found.StudyInstanceUID = uid(path, "series"), sources[0].StudyInstanceUID
    found.StructureSetLabel, found.StructureSetDate = NAME[:16], datetime.date(1961, 2, 3).strftime("%Y%m%d")
    found.StructureSetROISequence, found.ROIContourSequence = Sequence(), Sequence()
    for number, (name, contours) in enumerate(contours_of.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        roi.ReferencedFrameOfReferenceUID = sources[0].FrameOfReferenceUID
        drawn.ReferencedROINumber, drawn.ContourSequence = number, Sequence()
        for index, corners in contours:
            contour, image = Dataset(), Dataset()
            image.ReferencedSOPClassUID = sources[index].SOPClassUID
            image.ReferencedSOPInstanceUID = sources[index].SOPInstanceUID
            contour.ContourImageSequence = Sequence([image])
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(corners)
            contour.ContourData = [round(float(number), 6) for number in numpy.ravel(corners)]
            drawn.ContourSequence.append(contour)
        found.StructureSetROISequence.append(roi)
        found.ROIContourSequence.append(drawn)
    found.save_as(path, enforce_file_format=True)
    return path
