"""Every form in which a private key could be written somewhere, and where any of them stands."""

import base64
import urllib.parse

from cryptography.hazmat.primitives.serialization import load_pem_private_key

SHORTEST = 16
"""Bytes: a shorter part of a key would be found by chance."""


def forms(pem):
    """List the forms of a PEM key: the file's lines, its bytes and its secret seed in the usual codings."""
    private = load_pem_private_key(pem, password=None)
    seed = private.private_bytes_raw()
    body = b"".join(line for line in pem.splitlines() if not line.startswith(b"-----"))
    found = {seed, base64.b64decode(body), body, seed.hex().encode(), seed.hex().upper().encode(), seed.hex(":").encode()}
    found |= {base64.b64encode(seed), base64.urlsafe_b64encode(seed), base64.b32encode(seed), base64.b85encode(seed)}
    found |= {repr(seed).encode()[2:-1], str(list(seed)).encode(), str(int.from_bytes(seed, "big")).encode()}
    found |= {str(int.from_bytes(seed, "little")).encode(), urllib.parse.quote(seed).encode()}
    return {form.rstrip(b"=") for form in found if len(form) >= SHORTEST}


def of_site_key(content):
    """List the forms of a site's key, which is hexadecimal text."""
    text = content.strip()
    return {text.encode(), text.upper().encode(), bytes.fromhex(text), base64.b64encode(bytes.fromhex(text)).rstrip(b"=")}


def found_in(secrets, content):
    """List the forms that stand in some bytes."""
    return [form for form in secrets if form in content]


def files_with(secrets, folder, but=()):
    """List the files below a folder in which a form stands, but not in some folders of it."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(path.is_relative_to(place) for place in but) and found_in(secrets, path.read_bytes())
    )
