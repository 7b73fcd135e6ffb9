"""All or nothing: a result is staged beside its directory, and renamed into place when it is whole.

Beside OUT, while a run works and after one that did not end well:

    OUT.staging/
      lock            held by the run that works here
      identity.json   what the results of records depend on, in the run that computed what follows
      computed/       imputed records, which the next attempt takes over if they depend on the same
      attempt-*/      what is becoming OUT; each attempt has its own, and the next one removes it
      dead_letters.tfrecord   of the last attempt that came to have any, and failed
      replaced/       the former result, between the two renames that exchange it for the new one

Whenever a process is killed, OUT is a whole result or not there, and in `replaced/` then; the next
run puts it back.
"""

import contextlib
import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from vaefill.errors import ResultError
from vaefill.model import files
from vaefill.results.documents import Identity, RecordIdentity
from vaefill.results.integrity import is_done
from vaefill.store.layout import DEAD_LETTERS

_LOGGER = logging.getLogger("vaefill")
_SUFFIX = ".staging"
_LOCK, _IDENTITY, _COMPUTED, _ATTEMPT, _REPLACED, _DEAD = (
    "lock",
    "identity.json",
    "computed",
    "attempt-",
    "replaced",
    "dead_letters.tfrecord",
)
_DEAD_OF_RESULT = os.path.join(DEAD_LETTERS, _DEAD)
_ATTEMPTS_TO_LOCK = 100


class Stage(NamedTuple):
    """Where a run works."""

    root: str  # becomes the result
    computed: str  # outlives the attempt
    publisher: "Publisher"  # of the result


class Publisher(Protocol):
    """Makes what a run has staged its result, all or nothing; made with the result directory.

    All but `lock` and `tidy_up` are called while the lock is held.
    """

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other runs from working for the same output, and puts in order what they left.

        Raises:
            ResultError: another run holds it.
            OSError: nothing can be written there.
        """

    def attempt(self, of_records: dict[str, Any]) -> Stage:
        """A fresh place to work in, beside what earlier attempts computed for the same run.

        Args:
            of_records: what the results of records depend on, JSON values.
        """

    def publish(self, root: str) -> None:
        """Makes a sealed attempt the result, and removes all else that was staged.

        Args:
            root: of the attempt.
        """

    def discard(self) -> None:
        """Removes all that was staged."""

    def tidy_up(self) -> None:
        """Removes what a killed run left beside a whole result, if that can be done now."""


def publisher_of(output: str) -> Publisher:
    """What publishes to an output directory, by its path.

    Raises:
        ResultError: nothing can publish there.
    """
    if "://" in output:
        raise ResultError(
            f"{output}: results are written to a file system that can rename a directory",
        )
    return LocalPublisher(output)


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
        ResultError: the output holds something else, or another run is writing it, or nothing can
            be published there.
        OSError: nothing can be written there.
    """
    publisher = publisher_of(output)
    if is_done(output, identity, replace):
        publisher.tidy_up()
        yield None
        return
    with publisher.lock():
        if is_done(output, identity, replace):
            yield None
            publisher.discard()
        else:
            yield publisher.attempt((identity if of_records is None else of_records).plain())


def dead_letters_of(place: str) -> str:
    """The file of dead letters of a result, or of the last attempt to make it.

    Args:
        place: a result directory, whether it is there or only what is staged beside it; or such a
            `.staging` directory; or the file itself.

    Raises:
        ResultError: there is none.
    """
    if files.is_file(place):
        return place
    for base in (place.rstrip("/"), place.rstrip("/") + _SUFFIX):
        attempts = [name for name in files.list_names(base) if name.startswith(_ATTEMPT)]
        folders = ["", *sorted(attempts)]
        found = [os.path.join(base, folder, _DEAD_OF_RESULT) for folder in folders]
        for path in (*found, os.path.join(base, _DEAD)):
            if files.is_file(path):
                return path
    raise ResultError(f"{place} has no dead letters; name a result, or the --output of a run")


def publish(staged: Stage) -> None:
    """Makes a sealed attempt the result; an earlier result gives way only then."""
    staged.publisher.publish(staged.root)


def discard(staged: Stage) -> None:
    """Removes all that was staged, where there is nothing to publish."""
    staged.publisher.discard()


class LocalPublisher:
    """A `Publisher` to a file system of this machine: a lock on a file, and two renames.

    What other file systems have not, locks, links and directories that go only if they are empty,
    is asked of the operating system itself.

    Args:
        output: the result directory; where it is a link, it is what that points to.

    Raises:
        ResultError: nothing can be renamed to it.
    """

    def __init__(self, output: str):
        self._named = output
        self._output = os.path.realpath(output)
        self._base = self._output + _SUFFIX
        if os.path.ismount(self._output):
            why = "is a mount point, which nothing can be renamed to"
            raise ResultError(f"{output} {why}; name a directory below it")

    def _path(self, name: str) -> str:
        return os.path.join(self._base, name)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """See `Publisher`."""
        with self._locked():
            self._put_back()
            yield

    def attempt(self, of_records: dict[str, Any]) -> Stage:
        """See `Publisher`."""
        self._clean(of_records)
        root = tempfile.mkdtemp(prefix=_ATTEMPT, dir=self._base)
        os.chmod(root, 0o755)
        return Stage(root, self._path(_COMPUTED), self)

    def publish(self, root: str) -> None:
        """See `Publisher`."""
        if files.exists(self._output):
            files.rename(self._output, self._path(_REPLACED))
        files.rename(root, self._output)
        files.flush(os.path.dirname(self._output))
        self.discard()

    def discard(self) -> None:
        """See `Publisher`; the lock goes last, so that no other run works there meanwhile."""
        for name in files.list_names(self._base):
            if name != _LOCK:
                files.remove(self._path(name), ignore_errors=True)
        files.remove(self._path(_LOCK))
        # Another run may have just taken it over, or something would not go.
        with contextlib.suppress(OSError):
            os.rmdir(self._base)

    def tidy_up(self) -> None:
        """See `Publisher`."""
        with contextlib.suppress(ResultError, OSError):
            if files.is_directory(self._base):
                with self._locked():
                    self.discard()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lock of the staging directory, made if need be.

        The lock is the kernel's, on an open file of this machine, and goes with the process.
        """
        for _ in range(_ATTEMPTS_TO_LOCK):
            files.make_directory(self._base)
            try:
                lock = open(self._path(_LOCK), "w", encoding="utf-8")
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
        raise ResultError(
            f"another run is writing {self._named}; wait for it, or choose another directory",
        )

    def _put_back(self) -> None:
        """Undoes the first of two renames where the second did not come."""
        replaced = self._path(_REPLACED)
        if not files.exists(replaced):
            return
        if files.list_names(self._output):
            files.remove(replaced)
            return
        if files.exists(self._output):
            os.rmdir(self._output)
        _LOGGER.warning(
            "a run was killed while it replaced %s: the former result is back",
            self._output,
        )
        files.rename(replaced, self._output)

    def _clean(self, identity: dict[str, Any]) -> None:
        """Removes what earlier attempts left, save what they computed for the same run and the
        dead letters of the last one.
        """
        for name in files.list_names(self._base):
            if name.startswith(_ATTEMPT):
                dead_letters = os.path.join(self._path(name), _DEAD_OF_RESULT)
                if files.is_file(dead_letters) and os.path.getsize(dead_letters):
                    files.rename(dead_letters, self._path(_DEAD))
                files.remove(self._path(name))
        computed, stated = self._path(_COMPUTED), self._path(_IDENTITY)
        try:
            same = files.read_json(stated) == identity
        except (FileNotFoundError, ValueError):
            same = False
        if not same:
            files.remove(computed)
            files.write_json(stated, identity)
        files.make_directory(computed)
