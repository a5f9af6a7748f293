"""Tiny runs of the whole pipeline, in a folder of their own, against the session's one Prefect backend."""

import http.server
import json
import multiprocessing
import threading
from multiprocessing import forkserver

import pytest
from tiny_run import workspace

from tasks import workers


@pytest.fixture(scope="session", autouse=True)
def one_fork_server():
    """A process has one fork server: start it with all that any phase needs, whichever test comes first."""
    multiprocessing.set_forkserver_preload(list(workers.NETWORKS))
    forkserver.ensure_running()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, prefect_backend):
    """A workspace with phantoms and prepared cases; copy it, do not change it."""
    from flows import phantoms, prepare

    made = workspace(tmp_path_factory.mktemp("prepared"))
    assert phantoms.main(made.arguments()) == 0
    assert prepare.main(made.arguments()) == 0
    return made


QUICK = ("--metrics", "dice", "--set", "inside.methods=[global]", "--set", "outside.methods=[global]")


@pytest.fixture(scope="session")
def two_seeds(prepared, tmp_path_factory):
    """Two finished runs of a round, demo--s42 and demo--s7, of which the global model is scored; copy it, do not change it."""
    from flows import federate, inside, outside

    made = prepared.copy(tmp_path_factory.mktemp("two") / "run")
    made.params.write_text(made.params.read_text().replace("rounds: 3", "rounds: 1"))
    seeds = ("--seeds", "42", "7")
    assert federate.main(made.arguments(*seeds)) == 0
    for phase in (inside, outside):
        assert phase.main(made.arguments(*seeds, *QUICK, "--set", "outside.adaptations={}")) == 0
    return made


@pytest.fixture
def copied(prepared, tmp_path):
    """A copy of the prepared workspace that a test may damage."""
    return prepared.copy(tmp_path / "copy")


@pytest.fixture(scope="session")
def make_workspace():
    """Make a workspace with tiny params in a folder, for some number of parallel sites."""
    return workspace


@pytest.fixture
def inbox():
    """A server that keeps what it is sent, and refuses as many requests as it is told to."""
    received, refusing = [], [0]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)  # it has no tokens against forged requests, as a server that does not use them

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(json.loads(body))  # before the answer: who sent it may look for it at once
            refusing[0] -= 1
            self.send_response(500 if refusing[0] >= 0 else 204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}", received, refusing
        served.shutdown()
        thread.join()
