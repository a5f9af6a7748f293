"""Names of a source's labels: brought to name -> value, and never shown if they look like a person's."""

from collections.abc import Mapping, Sequence

from fedsilo.cohort import privacy
from fedsilo.cohort.roster import BACKGROUND
from fedsilo.ingest.source import SourceError

MAX_VALUE = 65535
CHANNELS = ("CT", "MR", "MRI", "T1", "T2", "T1W", "T2W", "FLAIR", "PDW", "T2-SPIR", "T1-IN", "T1-OUT", "RED", "GREEN", "BLUE")
"""Names of channels that pass; any other may be a person's."""
PARTS = 3
"""Of a colour: one RGB file stands for three channels."""


def checked(labels: Mapping[str, object]) -> dict[str, int]:
    """Check name -> value as a source gives it; background, which some leave out, is added.

    Raises:
        SourceError: A name looks like a person's, date or number; a value is a region, or no whole number from 0 to 65535; two
            names have one value; or background is not 0.
    """
    if not labels:
        raise SourceError("label", "there are no labels: expected name -> value")
    if any(privacy.traces({"name": str(name)}, free_text=False) for name in labels):
        raise SourceError(
            "identity",
            "the name of a label looks like a person's, a date or a number; rename it at the source",
            private=", ".join(str(name) for name in labels),
        )
    for place, (name, value) in enumerate(labels.items(), start=1):
        private = f"{name}: {value}"
        if isinstance(value, list):
            raise SourceError("label", f"label {place} of {len(labels)} is a region; give each organ a value of its own", private)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_VALUE:
            raise SourceError(
                "label", f"label {place} of {len(labels)} has no whole number: expected a value from 0 to {MAX_VALUE}", private
            )
    values = {BACKGROUND: 0} | {str(name): int(str(value)) for name, value in labels.items()}
    if len(set(values.values())) < len(values):
        raise SourceError("label", f"two labels have one value, or {BACKGROUND} is not the name of 0", private=str(values))
    if values[BACKGROUND] != 0:
        raise SourceError("label", f"{BACKGROUND} must have the value 0, got {values[BACKGROUND]}")
    return values


def inverted(labels: Mapping[str, object]) -> dict[str, object]:
    """Turn value -> name, as MSD and dseg.tsv have it, into name -> value.

    Raises:
        SourceError: A value is no whole number, or two values have one name.
    """
    turned: dict[str, object] = {}
    for value, name in labels.items():
        text = str(value).strip()
        if not text.isdecimal():
            raise SourceError("label", 'labels must be given as value -> name, such as {"1": "liver"}')
        if str(name) in turned:
            raise SourceError("label", "two values of labels have one name")
        turned[str(name)] = int(text)
    return turned


def channel_names(names: Sequence[str]) -> tuple[str, ...]:
    """Let the names of channels pass that say nothing but a modality or sequence; the others are numbered.

    Example:
        >>> channel_names(["ct", "MEYER^ANNA"])
        ('CT', 'channel 1')
    """
    return tuple(name.upper() if name.upper() in CHANNELS else f"channel {index}" for index, name in enumerate(names))


def modality_of(channels: Sequence[str]) -> str:
    """Say CT or MR if the names of channels settle it; otherwise nothing."""
    known = {"CT" if name == "CT" else "MR" for name in channels if name in CHANNELS[:-PARTS]}
    return known.pop() if len(known) == 1 and all(name in CHANNELS[:-PARTS] for name in channels) else ""


def in_order(content: object) -> list[str]:
    """Give the names of channels by their numbers from 0 on.

    Raises:
        SourceError: It is no mapping "0" -> name, "1" -> name and so on.
    """
    if not isinstance(content, dict) or sorted(content) != sorted(str(index) for index in range(len(content))) or not content:
        raise SourceError("channels", 'dataset.json: expected names of channels as {"0": "CT"}, numbered from 0 on')
    return [str(content[str(index)]) for index in range(len(content))]
