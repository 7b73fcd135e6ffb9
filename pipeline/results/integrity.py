"""Whether a result is whole: `manifest.json`, written last, has the SHA-256 of every other file.

A directory without it is not a result.
"""

import os
from collections.abc import Mapping, Sequence

from vaefill.errors import ResultError
from vaefill.model import files
from vaefill.results.documents import Identity, Manifest
from vaefill.results.reading import MANIFEST, FormatError, read_manifest


def check_files(directory: str, names: Sequence[str] | None = None) -> Manifest:
    """Checks that files of a result are there and as they were written.

    Args:
        directory: where the result lies.
        names: of the files within it, by default all that its manifest names.

    Returns:
        The manifest.

    Raises:
        ResultError: the directory is not a result, or not the one that was written; it says which
            files are not.
    """
    manifest = read_manifest(directory)
    if manifest.manifest_sha256 != manifest.digest:
        raise ResultError(f"{directory} is not what was written: {MANIFEST}: altered")
    chosen = sorted(manifest.files if names is None else names)
    problems = {name: _problem(directory, name, manifest.files) for name in chosen}
    _refuse(directory, [f"{ascii(name)[1:-1]}: {text}" for name, text in problems.items() if text])
    return manifest


def verify(directory: str) -> Manifest:
    """Checks that every file of a result is there and as it was written, and that there are no
    others beside them.

    Args:
        directory: where the result lies.

    Returns:
        The manifest.

    Raises:
        ResultError: the directory is not a result, or not the one that was written; it says which
            files are not.
    """
    manifest = check_files(directory)
    surplus = []
    for folder in sorted({os.path.dirname(name) for name in manifest.files}):
        for name in files.list_names(os.path.join(directory, folder)):
            path = os.path.join(folder, name)
            is_known = path in manifest.files or path == MANIFEST
            if not is_known and not files.is_directory(os.path.join(directory, path)):
                surplus.append(f"{ascii(path)[1:-1]}: not part of it")
    _refuse(directory, surplus)
    return manifest


def _refuse(directory: str, wrong: Sequence[str]) -> None:
    if wrong:
        raise ResultError(f"{directory} is not what was written: {'; '.join(wrong)}")


def _problem(directory: str, name: str, digests: Mapping[str, str]) -> str | None:
    """What is wrong with a file of a result, if anything; links are not followed."""
    leaves = os.path.isabs(name) or name.startswith("..")
    if leaves or os.path.normpath(name) != name or not name.isprintable():
        return "not a name within the result"
    path = os.path.join(directory, name)
    if os.path.realpath(path) != os.path.join(os.path.realpath(directory), name):
        return "a link"
    if not files.is_file(path):
        return "missing"
    try:
        return None if files.sha256(path) == digests.get(name) else "altered"
    except OSError as error:
        return error.strerror or str(error)


def is_done(directory: str, identity: Identity, replace: bool) -> bool:
    """Whether a directory already holds the result of the same run.

    Args:
        directory: where the result of the run belongs.
        identity: of the run.
        replace: whether the result of another run may be replaced.

    Raises:
        ResultError: it holds something else, which may not be replaced.
    """
    if not files.exists(directory):
        return False
    if files.is_directory(directory) and not files.list_names(directory):
        return False
    try:
        found = read_manifest(directory).identity
    except FormatError as error:
        if replace:
            return False
        raise ResultError(f"{error}, with --replace or into another directory") from None
    if found == identity:
        return True
    if not replace:
        raise ResultError(
            f"{directory} holds the result of another run (different: "
            f"{', '.join(_differences(found, identity))}); "
            "choose another directory, or replace it with --replace"
        )
    return False


def _differences(first: Identity, second: Identity) -> list[str]:
    """The names of what differs between two identities, or is in one alone."""
    ours = dict(first)
    theirs = dict(second)
    return sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))


def seal(root: str, manifest: Manifest) -> None:
    """Removes what only the run needed, and writes the manifest when every file left has reached
    the disk.

    Args:
        root: the directory that becomes the result.
        manifest: all but its files.
    """
    for name in ("spill", "parts"):
        files.remove(os.path.join(root, name), ignore_errors=True)
    digests = {}
    for folder, names in files.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            digests[os.path.relpath(path, root)] = files.sha256(path)
            files.flush(path)
        files.flush(folder)
    path = os.path.join(root, MANIFEST)
    files.write_json(path, manifest.sealed(digests).plain())
    files.flush(path)
    files.flush(root)
