"""Copying to the machine what a sandbox wrote: directories, regular files and links out of its layer. Imports `upper`.

What goes for reading the layer goes for what is copied: no link is followed, on either side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import stat
import tempfile
from collections.abc import Callable, Sequence

from pytest_sandbox.primitives.overlay import Tree, TreeKind, is_below
from pytest_sandbox.sandbox.files import upper

#: How a regular file of a layer is opened.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


#: What the machine says that has no room, or is broken: all other errors are of what the sandbox has made.
_MACHINES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE})


class CopyError(OSError):
    """Something was left out for a reason of the machine's; what is there is whole."""


def takes_all(name: str) -> bool:
    """Leave out nothing."""
    del name
    return False


def copy_out(layer: int, trees: Sequence[Tree], below: str, target: str, leaves_out: Callable[[str], bool] = takes_all) -> int:
    """Copy what was written below the path `below` to the directory `target` of the machine; returns how many entries.

    leaves_out: whether an entry right below that path stays where it is, with all in it.
    Directories, regular files and symbolic links (as links) only. A link that an earlier copy left in `target` is not followed
    either: what a later sandbox has as a directory of that name is left out. Raises CopyError, after all was tried that there
    was room for.
    """
    prefix = below.rstrip("/") + "/"
    count, problem = 0, None
    top = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for entry in upper.walk(layer, trees):
            relative = entry.path.removeprefix(prefix)
            if relative != entry.path and not leaves_out(relative.partition("/")[0]):
                try:
                    count += _copy(entry, top, relative)
                except OSError as error:
                    problem = problem or (CopyError(error.errno, error.strerror) if error.errno in _MACHINES else None)
    finally:
        os.close(top)
    if problem is not None:
        raise problem
    return count


@dataclasses.dataclass(frozen=True, slots=True)
class Copies:
    """Files copied out of a layer, under names of their own, and how many more there were than may be."""

    paths: tuple[str, ...] = ()
    left_out: int = 0


def copy_files(layer: int, trees: Sequence[Tree], where: str, target: Callable[[], str], most: tuple[int, int]) -> Copies:
    """Copy the regular files in one directory whose paths begin with `where` to the machine's directory `target()`.

    most: files and bytes. No link is followed. target is called only if there is such a file.
    """
    above, prefix = os.path.split(where)
    paths, left_out, size = list[str](), 0, 0
    try:
        directory = _open_directory_of(layer, trees, above)
    except OSError:
        return Copies()
    try:
        for name in upper.listed(directory):
            if not name.startswith(prefix):
                continue
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode):
                    continue
                size += status.st_size
                if len(paths) < most[0] and size <= most[1]:
                    paths.append(_copy_anew(directory, name, target()))
                    continue
            except OSError:  # its mode, say, is the sandbox's to choose
                pass
            left_out += 1
    finally:
        os.close(directory)
    return Copies(tuple(paths), left_out)


def may_have(layer: int, trees: Sequence[Tree], path: str) -> bool:
    """Whether a layer has a directory at this path, and so perhaps something below it; said without a walk."""
    try:
        os.close(_open_directory_of(layer, trees, path))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        return error.errno != errno.ELOOP  # what may not be looked into `upper.walk` does all the same
    return True


def _open_directory_of(layer: int, trees: Sequence[Tree], path: str) -> int:
    """Open a directory as a layer has it. OSError; FileNotFoundError where nothing was written there."""
    around = [(len(tree.path), index) for index, tree in enumerate(trees) if is_below(path, [tree.path])]
    index = max(around, default=(0, -1))[1]
    if index < 0 or trees[index].kind is not TreeKind.OVERLAY:
        raise FileNotFoundError(errno.ENOENT, "no overlay", path)
    directory = upper.open_upper(layer, index)
    for name in path[len(trees[index].path.rstrip("/")) :].strip("/").split("/"):
        directory = _step(directory, name or ".")
    return directory


def _step(directory: int, name: str) -> int:
    """Open a directory in another one, which is closed; ENOTDIR or ELOOP where it is none."""
    try:
        return os.open(name, upper.DIRECTORY, dir_fd=directory)
    finally:
        os.close(directory)


def _copy_anew(directory: int, name: str, target: str) -> str:
    """Copy a file under a name that nothing else has."""
    source = os.open(name, FILE, dir_fd=directory)
    try:
        output, path = tempfile.mkstemp(dir=target)
        try:
            _copy_data(source, output)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(output)
    finally:
        os.close(source)
    return path


def _copy(entry: upper.Entry, top: int, relative: str) -> int:
    *parents, name = relative.split("/")
    directory = _descend(top, parents)
    try:
        mode = entry.status.st_mode
        if stat.S_ISDIR(mode):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700 | stat.S_IMODE(mode) & 0o755, dir_fd=directory)
        elif stat.S_ISLNK(mode):
            os.symlink(os.readlink(entry.name, dir_fd=entry.parent), name, dir_fd=directory)
        elif stat.S_ISREG(mode):
            source = os.open(entry.name, FILE, dir_fd=entry.parent)
            try:
                copy_file(source, directory, name, 0o600 | stat.S_IMODE(mode) & 0o755)
            finally:
                os.close(source)
        else:
            return 0
    finally:
        os.close(directory)
    return 1


def _descend(top: int, names: Sequence[str]) -> int:
    """Open a directory below `top`, made where it is missing, without following a link; ENOTDIR or ELOOP where one is."""
    directory = os.dup(top)
    for name in names:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=directory)
        except OSError:
            os.close(directory)
            raise
        directory = _step(directory, name)
    return directory


def copy_file(source: int, directory: int, name: str, mode: int) -> None:
    """Copy an open regular file to a name in a directory that has nothing of that name. OSError: it has none then either."""
    output = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=directory)
    try:
        _copy_data(source, output)
    except OSError:
        os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(output)


def _copy_data(source: int, output: int) -> None:
    """Copy a file's data, and leave its holes holes: a sparse file may claim any size (lseek(2), SEEK_DATA)."""
    size, position = os.fstat(source).st_size, 0
    os.ftruncate(output, size)
    while position < size:
        try:
            position = os.lseek(source, position, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        end = os.lseek(source, position, os.SEEK_HOLE)
        os.lseek(source, position, os.SEEK_SET)
        os.lseek(output, position, os.SEEK_SET)
        while position < end and (sent := os.sendfile(output, source, None, min(end - position, 1 << 24))):
            position += sent
        position = end
