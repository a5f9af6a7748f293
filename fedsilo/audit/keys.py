"""Signing keys: made once for their owner alone, named by a hash of their public half, used under a domain.

A private key is an ed25519 key (RFC 8032) in unencrypted PKCS#8 PEM, as `openssl genpkey -algorithm ed25519` writes it, in a file
of mode 0600. A signature is over a domain, which ends in NUL, and the canonical form of a record without its ``sig``: what
was signed as one thing never passes as another.
"""

import base64
import functools
import hashlib
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key

from fedsilo.audit import canonical
from fedsilo.errors import DataError, OutputError

OTHERS = stat.S_IRWXG | stat.S_IRWXO
MAX_BYTES = 4096
EVENT_DOMAIN = b"fedsilo-audit/v1/event\0"
CHECKPOINT_DOMAIN = b"fedsilo-audit/v1/checkpoint\0"
FOUNDING_DOMAIN = b"fedsilo-founding/v1\0"
SMALL_ORDER = tuple(
    int.from_bytes(bytes.fromhex(text), "little")
    for text in (
        f"{'00' * 32}",
        f"01{'00' * 31}",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        f"ec{'ff' * 30}7f",
        f"ed{'ff' * 30}7f",
        f"ee{'ff' * 30}7f",
    )
)
"""The y of the curve's points of small order, in all encodings: as public keys they take signatures that nobody's key made."""


@dataclass(frozen=True)
class Signer:
    """A private key with its public half and its name."""

    key: str
    public: str
    _private: Ed25519PrivateKey = field(repr=False)

    def sign(self, domain: bytes, record: Mapping[str, object]) -> str:
        """Sign a record; base64.

        Raises:
            DataError: Something in it has no canonical form.
        """
        found = canonical.flaw(dict(record))
        if found:
            raise DataError(f"cannot sign: {found}")
        return base64.b64encode(self._private.sign(_message(domain, record))).decode()


def name_of(public: str) -> str:
    """Name a key by its public half, 32 bytes in base64."""
    return f"ed25519:{hashlib.sha256(base64.b64decode(public)).hexdigest()[:32]}"


def is_weak(public: str) -> bool:
    """Say whether anybody can sign as a public key: whoever registers one could deny all that it signs."""
    return int.from_bytes(base64.b64decode(public), "little") % (1 << 255) in SMALL_ORDER


def signed_by(public: str, domain: bytes, record: Mapping[str, object]) -> bool:
    """Check the ``sig`` of a record."""
    try:
        _public_key(public).verify(base64.b64decode(str(record.get("sig", ""))), _message(domain, record))
    except (InvalidSignature, ValueError):
        return False
    return True


def of_seed(seed: bytes) -> Signer:
    """Make the key of a seed of 32 bytes."""
    return _signer(Ed25519PrivateKey.from_private_bytes(seed))


def make(path: Path) -> Signer:
    """Make a private key that nobody but its owner could read at any time; a file that is there stays.

    Raises:
        OutputError: There is a file, or it cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(temporary, path)  # unlike a rename it fails where a key is
        finally:
            temporary.unlink()
    except FileExistsError:
        raise OutputError(f"{path} is there already; a key is never overwritten") from None
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    return _signer(private)


def load(path: Path) -> Signer:
    """Read a private key.

    Raises:
        DataError: There is none, others may read the file, or it is another kind of key; the message quotes nothing of it.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as handle:
            status = os.fstat(handle.fileno())
            content = handle.read(MAX_BYTES) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise DataError(f"cannot read the key {path}: {error.strerror or error}") from None
    if not stat.S_ISREG(status.st_mode) or status.st_mode & OTHERS:
        raise DataError(f"the key {path} must be a file that only its owner may read; expected mode 0600 (chmod 600)")
    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DataError(f"{path} is no private key in unencrypted PEM: {type(error).__name__}") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise DataError(f"the key {path} is of another kind, expected ed25519")
    return _signer(private)


def _signer(private: Ed25519PrivateKey) -> Signer:
    public = base64.b64encode(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    return Signer(key=name_of(public), public=public, _private=private)


def _message(domain: bytes, record: Mapping[str, object]) -> bytes:
    return domain + canonical.dumps({name: value for name, value in record.items() if name != "sig"})


@functools.lru_cache(maxsize=1024)
def _public_key(public: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(public))
