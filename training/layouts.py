"""Where the videos, speakers and transcripts of a corpus lie on disk: one small function per layout.

docs/dataset.md shows each layout as a tree of folders.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transcripts import find_transcript

from avatarsync.errors import DatasetError

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".mpg", ".mpeg", ".avi", ".webm", ".m4v"}
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
# Between a speaker's folder and his videos in GRID, as distributed: s1/video/mpg_6000/bbaf2n.mpg
GRID_ALIGN_FOLDERS = ("align", "alignments")


@dataclass(frozen=True)
class Source:
    """One video or picture.

    Attributes:
        path: the file.
        name: its path relative to the folder that was given, with "/".
        id: unique name in the dataset.
        speaker: who is seen; a portrait's is its own id.
        language: espeak code of the speech, "" for a portrait.
        transcript: file with what is said, or None.
        first_line: only the transcript's first line is what is said.
        audio: file with the sound, or None where it is the video's own.
    """

    path: Path
    name: str
    id: str
    speaker: str
    language: str = ""
    transcript: Path | None = None
    first_line: bool = False
    audio: Path | None = None


def _files(folder: Path, suffixes: set[str]) -> Iterator[tuple[Path, Path]]:
    """Files below a folder, sorted, hidden ones left out: path, and path relative to the folder without its ending."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in suffixes and not hidden and path.is_file():
            yield path, relative.with_name(relative.name[: -len(path.suffix)])


def flat(folder: Path, language: str | None) -> Iterator[Source]:
    """Videos of one speaker directly in the folder, or a sub-folder per speaker; transcripts beside the videos."""
    for path, stem in _files(folder, VIDEO_SUFFIXES):
        speaker = stem.parts[0] if len(stem.parts) > 1 else folder.resolve().name
        transcript = find_transcript([folder / stem])
        yield Source(path, _name(path, folder), stem.as_posix(), speaker, language or "en-us", transcript)


def grid(folder: Path, language: str | None) -> Iterator[Source]:
    """GRID: s1/*.mpg (or s1/video/mpg_6000/*.mpg), alignments beside, in s1/align/ or in align/s1/."""
    for path, stem in _files(folder, VIDEO_SUFFIXES):
        speaker = stem.parts[0] if len(stem.parts) > 1 else folder.resolve().name
        home = folder / speaker if len(stem.parts) > 1 else folder
        places = [path.parent]
        places += [base / align for align in GRID_ALIGN_FOLDERS for base in (path.parent, home)]
        places += [base / align / speaker for align in GRID_ALIGN_FOLDERS for base in (folder, folder.parent)]
        transcript = find_transcript([place / stem.name for place in places])
        yield Source(path, _name(path, folder), stem.as_posix(), speaker, language or "en-us", transcript)


def cmlr(folder: Path, language: str | None) -> Iterator[Source]:
    """CMLR: video/s1/DATE/section_….mp4, and the same path with .wav below audio/ and with .txt below text/."""
    for path, stem in _files(folder / "video", VIDEO_SUFFIXES):
        audio = folder / "audio" / stem.with_name(stem.name + ".wav")
        yield Source(
            path,
            _name(path, folder),
            stem.as_posix(),
            stem.parts[0],
            language or "cmn",
            find_transcript([folder / "text" / stem]),
            True,
            audio if audio.is_file() else None,
        )


def hdtf(folder: Path, language: str | None) -> Iterator[Source]:
    """HDTF: WDA_BarackObama_000.mp4, RD_Radio10_000.mp4 …: the speaker is the name without its last number."""
    for path, stem in _files(folder, VIDEO_SUFFIXES):
        speaker = re.sub(r"_\d+$", "", stem.name)
        yield Source(
            path, _name(path, folder), stem.as_posix(), speaker, language or "en-us", find_transcript([folder / stem])
        )


def pictures(folder: Path) -> Iterator[Source]:
    """Portraits: every picture below the folder, named by its file name."""
    for path, stem in _files(folder, PICTURE_SUFFIXES):
        yield Source(path, _name(path, folder), stem.name, stem.name)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


LAYOUTS = {"flat": flat, "grid": grid, "cmlr": cmlr, "hdtf": hdtf}


def find_sources(
    videos: list[Path], portraits: list[Path], layout: str, language: str | None
) -> dict[str, list[Source]]:
    """All sources of the folders, by kind ("clips", "portraits"), in the order of the folders and of their names.

    Raises:
        DatasetError: a folder is missing, or holds nothing of its layout.
    """
    found: dict[str, list[Source]] = {"clips": [], "portraits": []}
    for kind, folders in (("clips", videos), ("portraits", portraits)):
        for folder in folders:
            if not folder.is_dir():
                raise DatasetError(f"{folder} is not a folder: give folders of videos or portraits")
            sources = list(pictures(folder) if kind == "portraits" else LAYOUTS[layout](folder, language))
            if not sources:
                if kind == "portraits":
                    wanted = f"picture ({', '.join(sorted(PICTURE_SUFFIXES))})"
                else:
                    wanted = f"video in the layout {layout} ({LAYOUTS[layout].__doc__.rstrip('.')})"
                raise DatasetError(f"{folder} holds no {wanted}: give another folder or --layout")
            found[kind] += sources
    return found
