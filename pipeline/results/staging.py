"""All or nothing: a result is staged beside its directory, and renamed into place when it is whole.

Beside OUT, while a run works and after one that did not end well:

    OUT.staging/
      lock            held by the run that works here
      identity.json   what the results of records depend on, in the run that computed what follows
      computed/       imputed records, which the next attempt takes over if they depend on the same
      attempt-*/      what is becoming OUT; each attempt has its own, and the next one removes it
      replaced/       the former result, between the two renames that exchange it for the new one

Whenever a process is killed, OUT is a whole result or not there, and in `replaced/` then; the next
run puts it back.
"""

import contextlib
import fcntl
import glob
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from vaefill.model import files
from vaefill.pipeline.errors import ResultError
from vaefill.pipeline.results.documents import Identity, RecordIdentity
from vaefill.pipeline.results.integrity import flush, is_done

_LOGGER = logging.getLogger("vaefill")
_SUFFIX = ".staging"
_LOCK, _IDENTITY, _COMPUTED, _ATTEMPT, _REPLACED = (
    "lock",
    "identity.json",
    "computed",
    "attempt-",
    "replaced",
)
_ATTEMPTS_TO_LOCK = 100


class Stage(NamedTuple):
    """Where a run works."""

    root: str  # becomes the result
    computed: str  # outlives the attempt
    output: str


@contextlib.contextmanager
def stage(
    output: str, identity: Identity, replace: bool, of_records: RecordIdentity | None = None
) -> Iterator[Stage | None]:
    """A place to make a result in, for this run alone; None where the output already is the result
    of this run.

    Args:
        output: the result directory.
        identity: of the run.
        replace: whether the result of a different run may be replaced.
        of_records: what a record's result depends on beside the record; computed records are kept
            for an attempt with the same.

    Raises:
        ResultError: the output holds something else, or another run is writing it.
        OSError: nothing can be written there.
    """
    path = os.path.realpath(output)
    base = path + _SUFFIX
    if os.path.ismount(path):
        raise ResultError(
            f"{output} is a mount point, which nothing can be renamed to; name a directory below it"
        )
    if is_done(output, identity, replace):
        # Nothing needs to be written any more, but a run may have been killed while it tidied up.
        with contextlib.suppress(ResultError, OSError):
            if os.path.isdir(base):
                with _locked(base, output):
                    _remove(base)
        yield None
        return
    with _locked(base, output):
        _put_back(base, path)
        if is_done(output, identity, replace):
            done = None
        else:
            _clean(base, (identity if of_records is None else of_records).plain())
            root = tempfile.mkdtemp(prefix=_ATTEMPT, dir=base)
            os.chmod(root, 0o755)
            done = Stage(root, os.path.join(base, _COMPUTED), path)
        yield done
        if done is None:
            _remove(base)


def publish(staged: Stage) -> None:
    """Renames a sealed attempt into place; an earlier result gives way only then."""
    base = os.path.dirname(staged.root)
    if os.path.exists(staged.output):
        os.rename(staged.output, os.path.join(base, _REPLACED))
    os.rename(staged.root, staged.output)
    flush(os.path.dirname(staged.output))
    _remove(base)


def discard(staged: Stage) -> None:
    """Removes all that was staged, where there is nothing to publish."""
    _remove(os.path.dirname(staged.root))


def _remove(base: str) -> None:
    """Removes a staging directory whose lock is held; the lock last, so that no other run works
    there meanwhile.
    """
    for name in os.listdir(base):
        path = os.path.join(base, name)
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        elif name != _LOCK:
            os.remove(path)
    os.remove(os.path.join(base, _LOCK))
    # Another run has just taken it over, or something would not go
    with contextlib.suppress(OSError):
        os.rmdir(base)


@contextlib.contextmanager
def _locked(base: str, output: str) -> Iterator[None]:
    """Holds the lock of a staging directory, made if need be."""
    for _ in range(_ATTEMPTS_TO_LOCK):
        os.makedirs(base, exist_ok=True)
        try:
            lock = open(os.path.join(base, _LOCK), "w", encoding="utf-8")
        except FileNotFoundError:
            continue  # another run has just finished, and removed the directory
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name)):
                    continue
            except BlockingIOError:
                break
            except FileNotFoundError:
                continue
            yield
            return
    raise ResultError(f"another run is writing {output}; wait for it, or choose another directory")


def _put_back(base: str, path: str) -> None:
    """Undoes the first of two renames where the second did not come."""
    replaced = os.path.join(base, _REPLACED)
    if not os.path.exists(replaced):
        return
    if os.path.exists(path) and os.listdir(path):
        shutil.rmtree(replaced)
    else:
        if os.path.exists(path):
            os.rmdir(path)
        _LOGGER.warning("a run was killed while it replaced %s: the former result is back", path)
        os.rename(replaced, path)


def _clean(base: str, identity: Any) -> None:
    """Removes what earlier attempts left, save what they computed for the same run."""
    for attempt in glob.glob(os.path.join(glob.escape(base), f"{_ATTEMPT}*")):
        shutil.rmtree(attempt)
    computed, stated = os.path.join(base, _COMPUTED), os.path.join(base, _IDENTITY)
    try:
        with open(stated, encoding="utf-8") as file:
            same = json.load(file) == identity
    except (FileNotFoundError, ValueError):
        same = False
    if not same:
        if os.path.exists(computed):
            shutil.rmtree(computed)
        files.write_json(stated, identity)
    os.makedirs(computed, exist_ok=True)
