"""`python -m flows.audit` in a workspace with demo keys."""

import json

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedsilo.audit import forms, founding
from flows import audit
from tests import audit_story as tale

VERIFIED, REFUSED, UNCHECKED = 0, 1, 2


class Command:
    """Runs commands; gives exit codes and what was written."""

    def __init__(self, workspace, capsys):
        self.workspace, self.capsys = workspace, capsys
        self.log = workspace / "audit" / "demo" / "federation.jsonl"

    def run(self, *arguments):
        """Give the exit code and what was written to both outputs."""
        located = [] if arguments[:2] in (("keys", "new"), ("keys", "show")) else ["--workspace", str(self.workspace)]
        code = audit.main([*map(str, arguments), *located])
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def told(self, *arguments):
        """Give what was written by a command that must end well."""
        code, out, err = self.run(*arguments)
        assert (code, err) == (VERIFIED, "")
        return out

    def key(self, name):
        """Path of a demo key."""
        path = self.workspace / "keys" / f"{name}.pem"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(tale.signer(name)._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            path.chmod(0o600)
        return path

    def entry(self, name):
        """Path of the public half of a demo key."""
        path = self.workspace / f"{name}.json"
        path.write_text(json.dumps(forms.plain(tale.entry(name))))
        return path

    def begin(self):
        """Begin the log under a founding."""
        founding.write(tale.found(), self.log.with_name("founding.json"))
        assert self.told("open", "--key", self.key("server")) == "demo/federation has 1 lines\n"
        return self
