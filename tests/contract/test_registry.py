"""The model that registries read about is the one that the graph makes, under the name that tags have."""

import re

from dvc.repo import Repo

from fedsilo.audit import releases
from tasks.paths import EMBEDDED, RunPaths


def test_dvc_reads_the_model_that_federate_makes(repository, stages):
    (read,) = [found for path, found in Repo(repository).artifacts.read().items() if path == "dvc.yaml"]

    assert list(read) == [releases.artifact_of(EMBEDDED, EMBEDDED)]
    (model,) = read.values()
    assert model.path == RunPaths(repository, EMBEDDED, EMBEDDED).global_state.relative_to(repository).as_posix()
    assert (model.type, model.labels) == ("model", ["segmentation", "federated", "ct", "mr"])
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in stages[EMBEDDED]["federate"]["outs"]]
    assert any(model.path == out or model.path.startswith(f"{out}/") for out in outs)


def test_names_are_as_dvc_and_gto_take_them():
    from gto.constants import tag_re

    for federation in ("demo", "kidneys", "liver_ct", "a-"):
        name = releases.artifact_of(federation, EMBEDDED)
        assert re.fullmatch(r"[a-z][a-z0-9-]*[a-z0-9]", name)
        for tag in (releases.version_tag(name, "v1.2.0"), releases.stage_tag(name, 7)):
            assert tag_re.fullmatch(tag)["artifact"] == name
