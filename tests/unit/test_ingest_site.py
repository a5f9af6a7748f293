"""An imported site as a whole: keys, names, manifest, the same bytes again, update, what the cohort file needs, DVC."""

import json
import stat
import subprocess
import sys

import pytest
import yaml

from fedsilo import files
from fedsilo.cohort import roster as rosters
from fedsilo.errors import DataError, OutputError, ParamsError
from fedsilo.ingest import identities
from tasks import ingest, repro
from tests.unit import ingested, raw_source


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestKeys:
    def test_a_key_is_made_once_for_its_owner_alone(self, tmp_path):
        path = tmp_path / "keys" / "a.key"

        key = identities.load_key(path)

        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert len(key) == 32
        assert identities.load_key(path) == key

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
    def test_a_key_that_others_may_read_is_refused(self, tmp_path, mode):
        identities.load_key(tmp_path / "a.key")
        (tmp_path / "a.key").chmod(mode)

        with pytest.raises(DataError, match="expected mode 0600"):
            identities.load_key(tmp_path / "a.key")

    @pytest.mark.parametrize("content", ["", "secret", "ab" * 31])
    def test_what_is_no_key_is_refused(self, tmp_path, content):
        identities.write_private(tmp_path / "a.key", content)

        with pytest.raises(DataError, match="is no key"):
            identities.load_key(tmp_path / "a.key")

    def test_a_link_is_no_key(self, tmp_path):
        identities.load_key(tmp_path / "a.key")
        (tmp_path / "b.key").symlink_to(tmp_path / "a.key")

        with pytest.raises(DataError, match="must be a file"):
            identities.load_key(tmp_path / "b.key")

    def test_names_depend_on_key_and_kind(self):
        ids = {identities.new_id(kind, "x", key) for kind in ("case", "patient") for key in (b"a", b"b")}
        assert len(ids) == 4
        assert len({name[1:] for name in ids}) == 4

    def test_a_collision_is_refused(self, monkeypatch):
        monkeypatch.setattr(identities, "ID_LETTERS", 1)
        with pytest.raises(DataError, match="two names of a case have one hash"):
            identities.rename("case", map(str, range(17)), b"key")


class TestSite:
    def test_importing_twice_gives_the_same_bytes(self, tmp_path):
        source = raw_source.nnunet(tmp_path / "in")
        first = contents(ingested.run(source, tmp_path).folder)
        again = contents(ingested.run(source, tmp_path, update=True).folder)

        assert first == again

    def test_the_manifest_names_every_file_by_its_hash(self, tmp_path):
        made = ingested.run(raw_source.nnunet(tmp_path / "in"), tmp_path)

        manifest = json.loads((made.folder / "manifest.json").read_text())
        key = identities.load_key(made.ingestion.key_path)
        assert manifest["files"] == {
            name: files.sha256_file(made.folder / name) for name in contents(made.folder) if name != "manifest.json"
        }
        assert (manifest["layout"], manifest["num_cases"], manifest["num_patients"]) == ("nnunet", 3, 2)
        assert manifest["key_fingerprint"] == identities.fingerprint(key)
        assert key.hex() not in json.dumps(manifest)

    def test_a_site_that_is_there_is_not_replaced_unasked(self, tmp_path):
        source = raw_source.nnunet(tmp_path / "in")
        made = ingested.run(source, tmp_path)

        with pytest.raises(OutputError, match="is there already; --update imports it again"):
            ingested.run(source, tmp_path)
        assert len(made.site.cases) == 3

    def test_an_update_that_fails_leaves_the_site_as_it_was(self, tmp_path):
        source = raw_source.nnunet(tmp_path / "in")
        before = contents(ingested.run(source, tmp_path).folder)
        for path in (source / "labelsTr").iterdir():
            path.write_bytes(b"")

        with pytest.raises(DataError, match="no case can be imported, 3 are left out"):
            ingested.run(source, tmp_path, update=True)
        assert contents(tmp_path / "data/raw/tiny/site-a") == before

    def test_an_update_keeps_the_splits_that_the_site_has_chosen(self, tmp_path):
        source = raw_source.nnunet(tmp_path / "in")
        chosen = ingested.run(source, tmp_path).folder / "splits.csv"
        chosen.write_text("patient,split\n")

        ingested.run(source, tmp_path, update=True)

        assert chosen.read_text() == "patient,split\n"

    def test_an_update_under_another_key_is_refused(self, tmp_path):
        source = raw_source.nnunet(tmp_path / "in")
        ingested.run(source, tmp_path).ingestion.key_path.unlink()

        with pytest.raises(DataError, match="was imported under another key"):
            ingested.run(source, tmp_path, update=True)

    def test_private_files_are_their_owner_s_alone_and_the_plan_is_gone(self, tmp_path):
        made = ingested.run(raw_source.nnunet(tmp_path / "in"), tmp_path)

        keys = made.ingestion.key_path.parent
        assert sorted(path.name for path in keys.iterdir()) == ["site-a.findings.csv", "site-a.identities.csv", "site-a.key"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()} == {0o600}

    def test_a_key_in_the_site_s_folder_is_refused(self, tmp_path):
        made = ingested.ingestion(tmp_path)
        wrong = ingest.Ingestion(**{**vars(made), "key_path": made.folder / "site-a.key"})

        with pytest.raises(OutputError, match="must not lie in the site's folder"):
            ingest.ask(ingest.Request(tmp_path, "auto", (), "", ""), wrong)

    def test_an_unknown_layout_says_which_there_are(self, tmp_path):
        with pytest.raises(DataError, match="no layout 'dcm'; there are auto, nnunet, msd, bids, dicom"):
            ingested.run(raw_source.nnunet(tmp_path / "in"), tmp_path, layout="dcm")

    def test_the_line_for_the_cohort_is_one_of_its_entries(self, tmp_path):
        made = ingested.run(raw_source.nnunet(tmp_path / "in"), tmp_path)

        said = ingest.line(made.ingestion, tmp_path / "data" / "raw" / "tiny").splitlines()[1]
        said = said.replace("inside|outside", "inside").replace("hu|au|windowed_8bit", "au")
        (entry,) = yaml.safe_load(said)
        assert rosters.SiteEntry.model_validate(entry).folder == "site-a"
        assert entry["modality"] == "MR"
        assert "set `root:" in ingest.line(made.ingestion, tmp_path / "elsewhere")


def test_a_cohort_s_organs_can_be_read_before_it_has_sites(tmp_path):
    tree = yaml.safe_load((raw_source_repository() / "cohorts" / "kidneys.yaml").read_text())
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**tree, "sites": []}))

    assert rosters.load_vocabulary(tmp_path / "c.yaml").organs == ("background", "kidneys")
    with pytest.raises(ParamsError):
        rosters.load(tmp_path / "c.yaml")


def raw_source_repository():
    from tests.unit import raw_site

    return raw_site.REPOSITORY


@pytest.fixture
def versioned(tmp_path):
    """A DVC repository with our ignore rules, and a folder of a site in it."""

    def run(*command):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    run("git", "init", "-q")
    run(sys.executable, "-m", "dvc", "init", "-q")
    (tmp_path / ".gitignore").write_text((raw_source_repository() / ".gitignore").read_text())
    (tmp_path / ".dvc" / "config").write_text("['remote \"own\"']\n    url = storage\n")
    folder = tmp_path / "data" / "raw" / "tiny" / "site-a"
    folder.mkdir(parents=True)
    (folder / "x").write_text("1")
    return tmp_path, folder


def test_a_versioned_site_goes_to_no_remote_but_its_own_and_git_takes_its_file(versioned):
    workspace, folder = versioned

    tracked = repro.version_folder(workspace, folder, remote=None)
    (out,) = yaml.safe_load((workspace / tracked).read_text())["outs"]
    assert (tracked.as_posix(), out["path"], out["push"]) == ("data/raw/tiny/site-a.dvc", "site-a", False)

    repro.check_versioning(workspace, folder, "own")
    repro.version_folder(workspace, folder, remote="own")
    (folder / "x").write_text("2")
    repro.version_folder(workspace, folder, remote=None)
    (again,) = yaml.safe_load((workspace / tracked).read_text())["outs"]
    assert again["remote"] == "own"  # an update keeps it
    assert again["md5"] != out["md5"]

    shown = subprocess.run(["git", "add", "-n", "data"], cwd=workspace, check=True, capture_output=True, text=True).stdout
    assert shown.split() == ["add", "'data/raw/tiny/site-a.dvc'"]


def test_what_cannot_be_versioned_is_refused_early(versioned, tmp_path_factory):
    workspace, folder = versioned
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    with pytest.raises(ParamsError, match=r"no DVC remote 'other' in .*; there are own"):
        repro.check_versioning(workspace, folder, "other")
    with pytest.raises(ParamsError, match="is outside of the workspace"):
        repro.check_versioning(workspace, elsewhere, None)
    with pytest.raises(ParamsError, match="is no DVC repository"):
        repro.check_versioning(elsewhere, elsewhere / "site", None)
