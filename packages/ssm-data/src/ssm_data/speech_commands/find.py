"""The clips as they lie on disks: unpacked folders, or the official archive, which is read as it is."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from ssm_core.plugin.errors import UserError
from ssm_data import files, sources

LISTS = ("validation_list.txt", "testing_list.txt")
"""The official lists; a clip in neither is for training."""

FOLDERS = (
    *("SpeechCommands/speech_commands_v0.02", "speech_commands_v0.02", "SpeechCommands"),
    *("speech_commands/0.0.2/SpeechCommands/speech_commands_v0.02", "speech_commands/0.0.2/SpeechCommands"),
    "speech_commands",
)
"""Names of the folder in which those of the words lie; torchaudio's and the S5 repository's among them."""

ARCHIVES = ("speech_commands_v0.02.tar.gz", "speech_commands_v0.02.tgz")

File: TypeAlias = tuple[str, bytes]
"""A file's name below the folder, with / between, and its content."""


@dataclass(frozen=True)
class Origin:
    """Where clips were found.

    Attributes:
        path: The folder or archive.
        stamped: What tells these files from others.
        listing: Yields the lists and the clips, in any order.
    """

    path: Path
    stamped: tuple[Path, ...]
    listing: Callable[[], Iterator[File]]


def wrong(path: Path, row: int, what: str) -> UserError:
    """Return the error for a bad row of a list or member of an archive; 0 is the file as a whole."""
    where = f", row {row}" if row else ""
    return UserError(f"{path}{where}: {what}", "mend the file or fetch it again; nothing of it was kept")


def find(root: Path | None) -> Origin:
    """Return where the clips are.

    Raises:
        UserError: If they are nowhere.
    """
    if folder := sources.find(FOLDERS, LISTS, root):
        words = [path for path in files.inside(folder) if path.is_dir() and not path.name.startswith("_")]
        return Origin(folder, (folder, *words), lambda: _folder(folder, words))
    for name in ARCHIVES:
        if place := sources.find(("", "SpeechCommands", "speech_commands"), [name], root):
            file = place / name
            return Origin(file, (file,), lambda file=file: _archive(file))
    looked = dict.fromkeys(sources.candidates((*FOLDERS, ""), root))
    raise sources.missing(
        "speech-commands",
        looked,
        files=f"Speech Commands (folders of the words beside {LISTS[0]} and {LISTS[1]}, or {ARCHIVES[0]}, 2.4 GB, "
        "by the TensorFlow authors; it is not fetched for you)",
    )


def _folder(folder: Path, words: list[Path]) -> Iterator[File]:
    names = [*LISTS, *(f"{word.name}/{path.name}" for word in words for path in sorted(word.glob("*.wav")))]
    for name in names:
        try:
            yield name, (folder / name).read_bytes()
        except OSError as error:
            raise wrong(folder / name, 0, f"it cannot be read ({error.strerror or error})") from error


def _archive(path: Path) -> Iterator[File]:
    """Read the archive as a stream; nothing is unpacked, and names only name.

    Raises:
        UserError: If it is damaged, cut short, or has a member outside its folder.
    """
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as file:
                for row, member in enumerate(file, 1):
                    place = PurePosixPath(member.name)
                    if place.is_absolute() or ".." in place.parts:
                        raise wrong(
                            path, row, f"the member '{member.name}' lies outside the archive's folder"
                        )
                    # Members are named from the archive's root, as ./yes/a.wav, or with a folder before.
                    data = file.extractfile(member) if member.isfile() else None
                    if data is not None and (name := _below(place)):
                        yield name, data.read()
            while stream.read(
                1 << 20
            ):  # a tar that is cut short looks like one that ends; gzip knows its own end
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise wrong(path, 0, f"the archive is damaged or cut short ({error})") from error


def _below(place: PurePosixPath) -> str:
    """Return the name of a list or clip, nothing for another file."""
    if place.name in LISTS:
        return place.name
    is_clip = place.suffix == ".wav" and len(place.parts) > 1 and not place.parts[-2].startswith("_")
    return "/".join(place.parts[-2:]) if is_clip else ""
