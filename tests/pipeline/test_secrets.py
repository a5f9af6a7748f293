"""A federation that signs its trail leaves its keys in their files alone."""

import logging
from pathlib import Path

from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

from flows import federate, ingest, prepare
from tests import secrets_of
from tests.unit import raw_source


def test_no_output_log_or_record_of_a_run_holds_a_key(copied, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    private = copied.folder / "keys"

    assert prepare.main(copied.arguments()) == 0
    assert federate.main(copied.arguments("--set", "federate.rounds=1")) == 0
    assert federate.main(copied.arguments("--set", "federate.rounds=0")) == 1  # what an error says
    source = raw_source.msd(tmp_path / "source", 3)
    options = ["--site", "mr-z", "--no-dvc", "--out", str(tmp_path / "mr-z"), "--key", str(private / "mr-z.key")]
    assert ingest.main([str(source), *options, *copied.arguments()]) == 0
    (private / "mr-z.key").chmod(0o644)
    assert ingest.main([str(source), "--update", *options, *copied.arguments()]) == 1

    pems = sorted((private / "demo").glob("*.pem"))
    assert {path.stem for path in pems} >= {"server", "ct-a", "mr-b", "demo-admin"}
    secrets = set().union(*(secrets_of.forms(path.read_bytes()) for path in pems))
    secrets |= secrets_of.of_site_key((private / "mr-z.key").read_text())
    told = capfd.readouterr()
    assert secrets_of.found_in(secrets, (told.out + told.err + caplog.text).encode()) == []
    assert secrets_of.files_with(secrets, copied.folder, but=[private]) == []
    database = Path(PREFECT_API_DATABASE_CONNECTION_URL.value().partition(":///")[2])
    stored = b"".join(path.read_bytes() for path in database.parent.glob(f"{database.name}*"))
    assert b"federate" in stored
    assert secrets_of.found_in(secrets, stored) == []
