"""Which code, lock files and libraries a run is made with; commits and tags of releases. Of ours only this module runs git."""

import functools
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from fedsilo import files
from fedsilo.audit.events import Environment
from fedsilo.errors import DataError

CODE = Path(__file__).resolve().parents[1]
MADE = (":(exclude)reports", ":(exclude,glob)**/dvc.lock", ":(exclude)dvc.lock")
"""What phases write and git keeps: it does not make the code dirty."""


def installed() -> str:
    """Give the version of our code that is installed."""
    return version("fedsilo")


def commit(folder: Path, *paths: str) -> tuple[str | None, bool]:
    """Say which commit a folder is at, and whether tracked files, or those among ``paths``, differ from it."""
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *(paths or (".",)))
    return _git(folder, "rev-parse", "HEAD"), bool(changes)


def changed(folder: Path) -> list[str]:
    """List the tracked files of a repository that differ from its last commit, but for what phases and promotions write.

    ``.dvc`` files are listed also if git has never seen them: they name data.

    Raises:
        DataError: git failed.
    """
    skipped = (*MADE, ":(exclude)audit", ":(exclude)releases")
    asked = (("--untracked-files=no", "--", "."), ("--untracked-files=all", "--", ":(glob)**/*.dvc"))
    told = [_read(folder, "status", "--porcelain", "-z", *which, *skipped).decode(errors="replace") for which in asked]
    return sorted({entry[3:] for part in told for entry in part.split("\0") if entry[3:]})


def environment(lock: Path) -> Environment:
    """Describe the code that runs, by its own repository, and the lock file of the graph that it runs for."""
    made_with = _code()
    return Environment(
        git=made_with[0],
        dirty=None if made_with[0] is None else made_with[1],
        dvc_lock_sha256=_hash(lock),
        constraints_sha256=_hash(CODE / "constraints.txt"),
        python=platform.python_version(),
        torch=version("torch"),
    )


def committed(folder: Path, ref: str, inner: str) -> dict[str, bytes]:
    """Read the files that a commit has in a folder inside another, by their names.

    Args:
        folder: In a repository; ``inner`` is relative to it.
        ref: Name of a commit or tag.
        inner: Folder whose files are read, not those in its folders.

    Raises:
        DataError: There is no such commit, or git failed.
    """
    # what begins with a dash would be an option
    found = _read(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}").decode().strip()
    blobs: dict[str, bytes] = {}
    for line in filter(None, _read(folder, "ls-tree", "-z", found, "--", f"{inner}/").split(b"\0")):
        described, _, path = line.partition(b"\t")
        _, sort, blob = described.split(b" ")
        if sort == b"blob":
            blobs[path.decode(errors="replace").rpartition("/")[2]] = blob
    if not blobs:
        return {}
    # each blob is told of in a line that ends with its size, then come its bytes and a line feed
    told = _read(folder, "cat-file", "--batch", content=b"".join(blob + b"\n" for blob in blobs.values()))
    contents = {}
    for name in blobs:
        head, _, told = told.partition(b"\n")
        size = int(head.rpartition(b" ")[2])
        contents[name], told = told[:size], told[size + 1 :]
    return contents


def check_repository(folder: Path) -> None:
    """Refuse a folder that is in no git repository with a commit.

    Raises:
        DataError: It is in none.
    """
    _read(folder, "rev-parse", "--verify", "--quiet", "HEAD")


def check_identity(folder: Path) -> None:
    """Refuse a folder in which nothing can be committed: it is in no git repository, or git does not know who commits.

    Raises:
        DataError: So it is.
    """
    _read(folder, "rev-parse", "--is-inside-work-tree")
    _read(folder, "var", "GIT_COMMITTER_IDENT")


def is_committed(folder: Path, path: Path) -> bool:
    """Say whether a file is committed as it is now."""
    return not _read(folder, "status", "--porcelain", "--untracked-files=all", "--", str(path.relative_to(folder)))


def commit_paths(folder: Path, paths: Sequence[Path], message: str) -> None:
    """Commit some files and folders as they are now, and nothing else that is staged.

    Raises:
        DataError: git failed, for instance since it does not know whose commit it is.
    """
    named = [str(path.relative_to(folder)) for path in paths]
    _read(folder, "add", "--", *named)
    _read(folder, "commit", "--quiet", "--message", message, "--", *named)


def last_commit(folder: Path, path: Path, ref: str = "HEAD") -> str:
    """Name the last commit that changed a file, of those that lead to a commit or tag.

    Raises:
        DataError: None did, or there is no such commit.
    """
    log = ("log", "-1", "--format=%H", "--end-of-options", ref, "--", str(path.relative_to(folder)))
    found = _read(folder, *log).decode().strip()
    if not found:
        raise DataError(f"no commit of {folder} has {path}")
    return found


def tags(folder: Path, prefix: str) -> dict[str, str]:
    """Give the commits of the tags whose names begin so."""
    form = "--format=%(refname:short) %(if)%(*objectname)%(then)%(*objectname)%(else)%(objectname)%(end)"
    lines = _read(folder, "for-each-ref", form, "refs/tags").decode().splitlines()
    return {name: found for name, found in (line.split(" ") for line in lines) if name.startswith(prefix)}


def tag(folder: Path, name: str, target: str, message: str, *, key: Path | None) -> None:
    """Make an annotated tag, signed if there is an ssh key; one that is there at the same commit stays.

    Args:
        folder: In a repository.
        name: Of the tag.
        target: Commit that it names.
        message: Of the tag.
        key: Private ssh-ed25519 key.

    Raises:
        DataError: There is a tag of this name at another commit, or git failed.
    """
    there = tags(folder, name).get(name)
    if there == target:
        return
    if there is not None:
        raise DataError(f"the tag {name} is at commit {there} already, not at {target}")
    options = ["-c", "gpg.format=ssh", "-c", f"user.signingkey={key.resolve()}"] if key else ["-c", "tag.gpgSign=false"]
    _read(folder, *options, "tag", "--sign" if key else "--annotate", "--message", message, name, target)


def check_tag(folder: Path, name: str, signers: Path) -> None:
    """Verify the signature of a tag.

    Args:
        folder: In a repository.
        name: Of the tag.
        signers: Who may sign: a file as `ssh-keygen` reads it (ALLOWED SIGNERS).

    Raises:
        DataError: There is none, or its signature is of nobody in the file.
    """
    options = ["-c", "gpg.format=ssh", "-c", f"gpg.ssh.allowedSignersFile={signers.resolve()}"]
    _read(folder, *options, "verify-tag", name)


@functools.cache
def _code() -> tuple[str | None, bool]:
    """Ask git once a process."""
    return commit(CODE, ".", *MADE)


def _hash(path: Path) -> str | None:
    return files.sha256_file(path) if path.is_file() else None


def _git(folder: Path, *arguments: str) -> str | None:
    """Run git and return what it wrote, without the last newline; None if it failed."""
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603, S607  # argv, no shell
    return done.stdout.strip() if done.returncode == 0 else None


def _read(folder: Path, *arguments: str, content: bytes = b"") -> bytes:
    """Run git, which must end well, and return what it wrote."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, input=content, capture_output=True, check=False)  # noqa: S603, S607  # argv, no shell
    except OSError as error:
        raise DataError(f"cannot run git in {folder}: {error.strerror or error}") from None
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split()) or f"there is no {arguments[-1]}"
        command = next(part for part in arguments if part != "-c" and "=" not in part)
        raise DataError(f"git {command} in {folder} failed: {reason}")
    return done.stdout
