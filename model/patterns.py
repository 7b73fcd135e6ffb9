"""Glob patterns on this machine: the paths that they match.

Links are followed, and what may hide a file that a pattern means, such as a directory that cannot
be read or a link to nothing, is an error: a job that silently leaves out records is worse than one
that fails.
"""

import os
import re
import stat
from collections.abc import Iterator

_WILDCARD = re.compile(r"(\*\*|\*|\?|\[!?+\]?+[^]]*\])")
_EXPRESSIONS = {"**": ".*", "*": r"[^/\\]*", "?": "."}


def match(pattern: str) -> Iterator[str]:
    """The paths of the files that match a pattern, in no order.

    As much of the pattern as is there by its very name, from the left, is taken literally.

    Args:
        pattern: as `files.match` takes it.

    Raises:
        OSError: the pattern is none, or what it may mean cannot be read, which is named.
    """
    head, rest = _split(pattern.rstrip("/"))
    if pattern.endswith("/"):
        rest.append("*")
    if rest:
        yield from _below(head, rest)
    elif head is not None and not _is_directory(head):
        yield head


def _split(pattern: str) -> tuple[str | None, list[str]]:
    """The longest beginning of a pattern that is there, and the components that follow it; None
    where a relative pattern has no such beginning.
    """
    parts = pattern.split("/")
    for count in range(len(parts), 0, -1):
        if os.path.lexists(head := "/".join(parts[:count])) or not head:
            return ("", parts[count:]) if not head else (head, parts[count:])
    return None, parts


def _join(folder: str | None, name: str) -> str:
    return name if folder is None else f"{folder}/{name}"


def _below(folder: str | None, parts: list[str]) -> Iterator[str]:
    """The files below a directory whose components match."""
    first, *rest = parts
    if "**" in first:
        expression = _compile("/".join(parts))
        start = len(_join(folder, ""))
        yield from (path for path in _walk(folder) if expression.fullmatch(path, start))
        return
    names = [first]
    if _WILDCARD.search(first):
        names = list(filter(_compile(first).fullmatch, _list(folder)))
    for name in names:
        path = _join(folder, name)
        is_directory = _is_directory(path)
        if rest and is_directory:
            yield from _below(path, rest)
        elif not rest and is_directory is False:
            yield path


def _walk(folder: str | None) -> Iterator[str]:
    """The files below a directory; a link back to one that it lies in is not followed."""
    waiting = [(folder, frozenset({_identity(folder or os.curdir)}))]
    while waiting:
        here, above = waiting.pop()
        for name in _list(here):
            path = _join(here, name)
            is_directory = _is_directory(path)
            if is_directory is False:
                yield path
            elif is_directory and (identity := _identity(path)) not in above:
                waiting.append((path, above | {identity}))


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _list(folder: str | None) -> list[str]:
    try:
        return os.listdir(os.curdir if folder is None else folder or "/")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise OSError(f"cannot read the directory {folder}: {error.strerror}") from None


def _is_directory(path: str) -> bool | None:
    """Whether a path is of a directory, and not of a file; None where there is nothing.

    Raises:
        OSError: it is neither, or nobody can tell.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            raise OSError(f"{path} is a link to {os.readlink(path)}, which is not there") from None
        return None
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise OSError(f"{path} is neither a file nor a directory")
    return stat.S_ISDIR(mode)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile("".join(map(_expression, _WILDCARD.split(pattern))), re.DOTALL)
    except re.error as error:
        raise OSError(f"{pattern} is not a pattern: {error}") from None


def _expression(part: str) -> str:
    """What a part of a pattern, a wildcard or what is between two, is as a regular expression."""
    if part in _EXPRESSIONS:
        return _EXPRESSIONS[part]
    if not _WILDCARD.fullmatch(part):
        return re.escape(part)
    inner = re.sub(r"([\\[&|~])", r"\\\1", part[1:-1])  # what may come to mean more within a set
    if inner.startswith("!"):
        return f"[^{inner[1:]}]"
    return f"[\\{inner}]" if inner.startswith("^") else f"[{inner}]"
