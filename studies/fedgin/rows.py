"""What a FedGIN study found, a value a line: groups of test cases, scores, gains."""

from collections.abc import Mapping
from dataclasses import dataclass

ALL = "all organs"


@dataclass(frozen=True)
class Group:
    """Test cases of one modality, by what a scenario trained on: the scanner, the modality at another scanner, or neither."""

    modality: str
    scanner: str
    sites: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name it for a table or a figure."""
        return f"{self.modality}, {self.scanner}"


@dataclass(frozen=True)
class ScoreRow:
    """Dice of a scenario and method over a group of test cases.

    Attributes:
        dice: Mean of the sites' means over patients.
        low: Of the 95 % interval over patients.
        high: Of the same.
        seed_sd: Standard deviation over seeds; None with one seed.
        by_site: Mean over a site's patients.
    """

    scenario: str
    method: str
    group: Group
    organ: str
    dice: float
    low: float
    high: float
    seed_sd: float | None
    patients: int
    by_site: Mapping[str, float]


@dataclass(frozen=True)
class GainRow:
    """A method against a reference, patient by patient; positive is better.

    Attributes:
        reference: A method of the same scenario, or ``scenario/method``.
        relative: Gain as a share of the reference's Dice; None where that is zero.
        main: Whether the comparison is the question's own, not a detail of it.
        p_value: Of Wilcoxon's test; None where nothing is tested.
        p_holm: Corrected over the question.
    """

    question: str
    scenario: str
    method: str
    reference: str
    group: Group
    organ: str
    gain: float
    low: float
    high: float
    relative: float | None
    seed_sd: float | None
    patients: int
    main: bool
    p_value: float | None
    p_holm: float | None = None
