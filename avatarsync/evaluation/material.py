"""The clips that are evaluated: which files belong together by name, found before anything is computed."""

from dataclasses import dataclass, field
from pathlib import Path

import av

from ..errors import DatasetError, InvalidArgumentError, OutputError

VIDEOS = {".mp4", ".mov", ".mkv", ".mpg", ".mpeg", ".avi", ".webm", ".m4v"}
SOUNDS = {".wav", ".flac", ".mp3", ".m4a", ".ogg"}
PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
TRACKS = {".json", ".textgrid"}
REAL, GENERATED = "real", "generated"  # folders of pairs
OURS = "AvatarSync"


@dataclass
class Case:
    """A real clip, and what goes with it.

    Attributes:
        name: the files' common stem.
        real: the real video.
        sound: the file whose sound it is, which may be the video.
        reference: the portrait; None: the video's first frame.
        transcript: what is said, where a .txt says it.
        track: its timed phonemes, where a .json or .TextGrid has them.
        outputs: generated videos by system.
    """

    name: str
    real: Path
    sound: Path
    reference: Path | None = None
    transcript: str | None = None
    track: Path | None = None
    outputs: dict[str, Path] = field(default_factory=dict)

    @property
    def own_sound(self) -> bool:
        return self.sound == self.real

    @property
    def words_known(self) -> bool:
        return self.track is not None or self.transcript is not None


@dataclass
class Material:
    """Clips with the outputs of the same systems.

    Attributes:
        cases: the clips, by name.
        systems: their names in the table's order. The first is a model's that is yet to be run, if `generate`.
        generate: whether the first system's videos have to be made.
        remarks: what a reader of the report has to know.
    """

    cases: list[Case]
    systems: list[str]
    generate: bool
    remarks: list[str] = field(default_factory=list)


def find_material(
    folder: str | Path, against: list[str | Path] = (), limit: int | None = None, need_sound: bool = True
) -> Material:
    """The clips of a folder.

    With subfolders `real` and `generated` these hold pairs, NAME.mp4 each. Without, the folder holds real videos
    NAME.mp4, on which a model is to be run. Beside a real video there may be NAME.wav (the sound; else the video's
    own), NAME.png (the portrait; else the first frame), NAME.txt (what is said), NAME.json or NAME.TextGrid (timed
    phonemes). Other suffixes of videos, recordings and pictures do as well.

    Args:
        against: folders with NAME.mp4 of other systems, each called by its folder's name.
        limit: at most so many clips, the first by name.
        need_sound: refuse pairs that have none; a model needs something to say in any case.

    Raises:
        InvalidArgumentError: `limit` below 1, or two systems of one name.
        DatasetError: no such folder, no clips in it, a clip that lacks its sound or a system's video, or a file that
            cannot be read.
    """
    if limit is not None and limit < 1:
        raise InvalidArgumentError(f"--limit {limit}: give 1 or more")
    folder, generated = Path(folder), None
    _check_folder(folder, "clips")
    real = folder
    if (folder / REAL).is_dir() or (folder / GENERATED).is_dir():
        real, generated = folder / REAL, folder / GENERATED
        for part in (real, generated):
            _check_folder(part, "pairs: real and generated videos of equal names")
    systems = {OURS if generated is None else GENERATED: generated}
    for other in map(Path, against):
        _check_folder(other, "another system's videos")
        name = other.resolve().name
        if name in systems or name == REAL:
            raise InvalidArgumentError(f"two systems are called {name}: rename the folder {other}")
        systems[name] = other
    videos = _by_stem(real, VIDEOS)
    if not videos:
        raise DatasetError(f"{real} holds no videos ({', '.join(sorted(VIDEOS))}): give a folder of clips")
    need_sound = need_sound or generated is None
    cases = [_find_case(name, videos[name], need_sound) for name in sorted(videos)[:limit]]
    for system, place in systems.items():
        if place is None:
            continue
        outputs = _by_stem(place, VIDEOS)
        for case in cases:
            if case.name not in outputs:
                raise DatasetError(f"{place} holds no video {case.name}: every system needs one for each clip")
            _check_video(outputs[case.name])
            case.outputs[system] = outputs[case.name]
    remarks = [] if len(cases) == len(videos) else [f"{len(cases)} of {len(videos)} clips, the first by name"]
    return Material(cases, list(systems), generated is None, remarks)


def check_new_folder(out: str | Path) -> Path:
    """Make sure that `out` is, or can become, an empty folder; returns its path.

    Raises:
        OutputError: it is a file, holds something, or lies in no folder.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists already: give the name of a new folder")
    if not out.absolute().parent.is_dir():
        raise OutputError(f"{out.absolute().parent} is not a folder: create it, or write elsewhere")
    return out


def _check_folder(folder: Path, what: str) -> None:
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: give one that holds {what}")


def _by_stem(folder: Path, suffixes: set[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            if path.stem in files:
                raise DatasetError(f"{files[path.stem].name} and {path.name} have one name: remove one from {folder}")
            files[path.stem] = path
    return files


def _beside(video: Path, suffixes: set[str]) -> Path | None:
    return _by_stem(video.parent, suffixes).get(video.stem)


def _find_case(name: str, video: Path, need_sound: bool) -> Case:
    has_sound = _check_video(video)
    sound = _beside(video, SOUNDS)
    if sound is None and not has_sound and need_sound:
        raise DatasetError(
            f"{video.name} has no sound: put {name}.wav beside it, or measure pairs without (--sync none)"
        )
    text = video.with_name(f"{name}.txt")
    transcript = None
    if text.is_file():
        try:
            transcript = " ".join(text.read_text(encoding="utf-8-sig").split())
        except ValueError as error:
            raise DatasetError(f"{text.name} is no text in UTF-8: save it as such") from error
    return Case(name, video, sound or video, _beside(video, PICTURES), transcript or None, _beside(video, TRACKS))


def _check_video(path: Path) -> bool:
    """Whether the video has sound.

    Raises:
        DatasetError: it cannot be read, or has no picture.
    """
    try:
        with av.open(str(path.absolute())) as container:
            if container.streams.video:
                return bool(container.streams.audio)
    except (av.FFmpegError, OSError) as error:
        raise DatasetError(f"{path} cannot be read as a video ({error}): convert it to mp4") from error
    raise DatasetError(f"{path} has no picture: give a video")
