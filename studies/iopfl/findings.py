"""What an IOP-FL study found, a value a line: scores, comparisons, harm."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedsilo.evaluation.noninferiority import Catastrophes, NonInferiority

ALL_ORGANS = "all organs"
ALL_SITES = "all sites"


@dataclass(frozen=True)
class ScoreRow:
    """Dice of a method, mean over the sites' means.

    Attributes:
        low: Of the 95 % interval over patients, resampled within their sites.
        high: Of the same.
        seed_sd: Standard deviation over seeds; None with one seed.
        by_site: Mean over a site's patients.
    """

    phase: str
    method: str
    organ: str
    dice: float
    low: float
    high: float
    seed_sd: float | None
    patients: int
    by_site: Mapping[str, float]

    @property
    def worst(self) -> tuple[str, float]:
        """The site with the lowest mean, and that."""
        return min(self.by_site.items(), key=lambda item: item[1])


@dataclass(frozen=True)
class GainRow:
    """A method against a reference at a site or over all, patient by patient; positive is better.

    Attributes:
        p_value: Of Wilcoxon's test; None with fewer than six patients.
        p_holm: Corrected over the question.
    """

    question: str
    phase: str
    method: str
    reference: str
    site: str
    gain: float
    low: float
    high: float
    hodges_lehmann: float
    rank_biserial: float
    patients: int
    p_value: float | None
    p_holm: float | None = None


@dataclass(frozen=True)
class HarmRow:
    """What a method does to single patients, against the global model.

    Attributes:
        harmed: Share of patients and seeds that lose more than .05 Dice.
        helped: Share that gain more than .05.
        worst: The largest loss of one patient under one seed (0 if none loses).
        non_inferiority: Against the global model, over all organs, seeds averaged.
        catastrophes: Patients lost in any organ, seeds averaged.
    """

    phase: str
    method: str
    harmed: float
    helped: float
    worst: float
    non_inferiority: NonInferiority
    catastrophes: Catastrophes
