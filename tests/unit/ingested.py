"""Import a source as the flow does, without Prefect: the jobs one after another."""

import csv
from dataclasses import dataclass
from pathlib import Path

from fedsilo.cohort import layouts, volumes
from fedsilo.ingest import identities, recognise, tree
from fedsilo.ingest.source import Options
from tasks import ingest
from tasks.ingest import Ingestion, Request
from tests.unit import raw_site

ORGANS = ("background", "liver", "kidneys", "spleen")


@dataclass(frozen=True)
class Ingested:
    """A site that was imported."""

    ingestion: Ingestion
    counts: dict

    @property
    def folder(self):
        return self.ingestion.folder

    @property
    def site(self):
        """As the preparation reads it."""
        return layouts.find_cases(self.folder, self.ingestion.site)

    def new_id(self, case):
        return identities.new_id("case", case, identities.load_key(self.ingestion.key_path))

    def image(self, case):
        """Image and label by the source's own name."""
        (found,) = [one for one in self.site.cases if one.case == self.new_id(case)]
        return volumes.read_image(found.image_paths), volumes.read_image([found.label_path], is_label=True).channels[0]

    def identities(self):
        with self.ingestion.identities_path.open(newline="") as handle:
            return list(csv.DictReader(handle))

    def findings(self):
        with self.ingestion.findings_path.open(newline="") as handle:
            return list(csv.DictReader(handle))


def ingestion(workspace, *, organs=ORGANS, drop=(), update=False, strict=False, site="site-a"):
    vocabulary = raw_site.roster("inside", organs=organs).model_copy(update={"drop": drop})
    return Ingestion(
        site=site,
        vocabulary=vocabulary,
        folder=Path(workspace) / "data" / "raw" / "tiny" / site,
        key_path=Path(workspace) / "keys" / f"{site}.key",
        records_dir=Path(workspace) / "checkpoints" / "cases",
        update=update,
        strict=strict,
    )


def run(source, workspace, *, layout="auto", labels=(), modality="", sequence="", **options):
    """Import; return the site."""
    made = ingestion(workspace, **options)
    ingest.ask(Request(Path(source), layout, tuple(labels), modality, sequence), made)
    ingest.survey_source(ingestion=made, device="cpu")
    for case in ingest.names(made):
        ingest.convert_case(case=case, ingestion=made, device="cpu")
    return Ingested(made, dict(ingest.finish_site(ingestion=made, device="cpu")))


def found(source, **options):
    """Find a source's cases by the layout it has."""
    listed = tree.listing(Path(source))
    layout = recognise.recognise(listed)
    return layout, layout.find(listed, Options(**options))
