"""Footage of one person → the rows that fine-tuning learns from and those it is measured on.

Videos and pictures are labelled as `prepare_data.py` does it. What shows nobody, or more than one person, is refused
before that.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import av
import datasets
import numpy as np
import pyarrow as pa
import torch
from labelling import Labeller, LabelOptions, LeftOut, Report, Voice
from landmarkers import BUNDLED, BundledLandmarker, FindLandmarks, MediaPipeLandmarker, open_landmarker
from layouts import PICTURE_SUFFIXES, VIDEO_SUFFIXES, Source
from speech_pieces import cut_at_silences
from tqdm import tqdm
from transcripts import find_transcript

from avatarsync import FaceAlignerModel
from avatarsync.data import dataset
from avatarsync.errors import (
    DatasetError,
    FaceNotFoundError,
    FaceTooSmallError,
    InvalidArgumentError,
    InvalidImageError,
    MultipleFacesError,
    OutputError,
)
from avatarsync.identity import FaceEmbedding
from avatarsync.video import load_image
from avatarsync.video_frames import VideoClock, read_frames

MIN_SECONDS, MIN_PICTURES = 5.0, 5
USABLE_SHARE = 0.6  # of the least footage: what is damaged or without a face is left out
HELD_OUT_SHARE = 0.2
# Footage is cut into about so many pieces, in silences, so that a fifth of it can be held out.
PIECES, PIECE_SECONDS = 12, (2.0, 8.0)
PICTURES_PER_PIECE = 4  # whole frames, in which the base's own aligner finds the resting face
SAMPLES = 24  # frames that are looked at before the work begins
MIN_FACES_SHARE = 0.5
# Cosine of dlib's embedding between the mean faces of two people; one person's in other light stay above.
SAME_PERSON = 0.91
MIN_PERSON_SHARE = 0.15  # of the samples: fewer are a mistaken face
SPEAKER = "speaker"


class OwnLandmarker(BundledLandmarker):
    """The base's own face aligner."""

    def __init__(self, model: FaceAlignerModel):
        self.model = model


class Watched:
    """A landmarker that says how far it has got."""

    def __init__(self, landmarker: BundledLandmarker | MediaPipeLandmarker, bar: tqdm):
        self.landmarker, self.bar = landmarker, bar

    @contextmanager
    def watch(self, video: bool) -> Iterator[FindLandmarks]:
        with self.landmarker.watch(video) as find:

            def watched(pixels: np.ndarray, milliseconds: int) -> np.ndarray | None:
                self.bar.update()
                return find(pixels, milliseconds)

            yield watched


@dataclass
class Footage:
    """Rows of one speaker, in the order they were filmed; `seconds` of video, 0 of pictures."""

    rows: dataset.Rows
    held_out: dataset.Rows
    seconds: float
    left_out: list[str]


def find_videos(paths: list[Path], language: str) -> list[Source]:
    """Videos below folders, or named themselves, in the order of their names; transcripts lie beside them.

    Raises:
        DatasetError: nothing there, or no video.
    """
    return [
        Source(path, path.name, name, SPEAKER, language, find_transcript([path.with_suffix("")]))
        for name, path in _files(paths, VIDEO_SUFFIXES, "video")
    ]


def find_pictures(paths: list[Path]) -> list[Source]:
    """Pictures below folders, or named themselves; see `find_videos`."""
    sources = [Source(path, path.name, name, SPEAKER) for name, path in _files(paths, PICTURE_SUFFIXES, "picture")]
    if len(sources) < MIN_PICTURES:
        raise DatasetError(
            f"{len(sources)} pictures are too few: give at least {MIN_PICTURES}, some with open lips, or a video"
        )
    return sources


def _files(paths: list[Path], suffixes: set[str], kind: str) -> Iterator[tuple[str, Path]]:
    found = []
    for path in paths:
        if not path.exists():
            raise DatasetError(f"there is no {path}: give folders or files with the {kind}s of one person")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [
            file
            for file in inside
            if file.suffix.lower() in suffixes and file.is_file() and not file.name.startswith(".")
        ]
    if not found:
        given = ", ".join(map(str, paths))
        raise DatasetError(f"{given} holds no {kind} ({', '.join(sorted(suffixes))}): give {kind}s of one person")
    return ((f"{number:04}", file) for number, file in enumerate(found))


def seconds_of(source: Source) -> float:
    """Length of a video.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        with av.open(str(source.path.absolute())) as container:
            stream = container.streams.video[0]
            if container.duration:
                return container.duration / av.time_base
            return float(sum(packet.duration or 0 for packet in container.demux(stream)) * stream.time_base)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DatasetError(f"{source.path} cannot be read as a video ({error}): convert it to mp4") from error


def readable(sources: list[Source]) -> tuple[list[Source], dict[str, float], list[str]]:
    """The videos that can be read, the seconds of each by id, and what is to be told of the others.

    Raises:
        DatasetError: none can be read, or they are too short.
    """
    seconds, others = {}, {}
    for source in sources:
        try:
            seconds[source.id] = seconds_of(source)
        except DatasetError as error:
            others[source.name] = error
    if not seconds:
        raise next(iter(others.values()))
    total = sum(seconds.values())
    if total < MIN_SECONDS:
        without = f" without {', '.join(others)}, which cannot be read" if others else ""
        raise DatasetError(
            f"the footage is {total:.1f} s long{without}, at least {MIN_SECONDS:.0f} s are needed: give more, 30 s or "
            "better a minute or two"
        )
    return [source for source in sources if source.id in seconds], seconds, list(map(str, others.values()))


def sample_frames(sources: list[Source], seconds: dict[str, float] | None) -> Iterator[tuple[str, np.ndarray]]:
    """Frames from all over the footage, each with where it is from; pictures where `seconds` is None.

    What cannot be decoded is passed over: `prepare` leaves it out.
    """
    if seconds is None:
        for source in sources:
            with suppress(InvalidImageError):
                yield source.name, load_image(source.path)
        return
    ends = np.cumsum([seconds[source.id] for source in sources])
    for moment in (np.arange(SAMPLES) + 0.5) / SAMPLES * ends[-1]:
        place = int(np.searchsorted(ends, moment))
        wanted = moment - (ends[place - 1] if place else 0.0)
        pixels = None
        with suppress(av.FFmpegError, OSError):
            pixels = _frame_at(sources[place], wanted)
        if pixels is not None:
            yield f"{sources[place].name} at {wanted:.1f} s", pixels


def _frame_at(source: Source, seconds: float) -> np.ndarray | None:
    """The frame `(H, W, 3) uint8` shown so many seconds after a video's begin, upright; None after its end."""
    with av.open(str(source.path.absolute())) as container:
        stream = container.streams.video[0]
        begin = float((stream.start_time or 0) * stream.time_base)
        container.seek(int((begin + seconds) * av.time_base))
        frame = next((f for f in container.decode(stream) if f.time is None or f.time >= begin + seconds), None)
        if frame is None:
            return None
        return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4))


@torch.inference_mode()
def check_person(
    frames: Iterator[tuple[str, np.ndarray]], aligner: FaceAlignerModel, embedding: FaceEmbedding
) -> None:
    """Make sure that the footage shows one person, and always the same.

    Raises:
        DatasetError: nobody, several people in a frame, or different ones at different times.
    """
    places, faces, total = [], [], 0
    for place, pixels in frames:
        total += 1
        try:
            landmarks = aligner.align(pixels).landmarks
        except MultipleFacesError as error:
            raise DatasetError(
                f"{place} shows several faces: give footage of one person alone, or cut it to that person"
            ) from error
        except FaceTooSmallError as error:
            raise DatasetError(f"{place}: {error}") from error
        except FaceNotFoundError:
            continue
        height, width = pixels.shape[:2]
        picture = torch.tensor(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 127.5 - 1
        faces.append(embedding(picture, torch.from_numpy(landmarks / (width, height)).float()[None])[0])
        places.append(place)
    if len(faces) < max(1, MIN_FACES_SHARE * total):
        raise DatasetError(
            f"a face was found in only {len(faces)} of {total} places of the footage: film one person from the front, "
            "with the face at least 64 pixels wide"
        )
    cosine, first, second = least_alike(torch.stack(faces))
    if cosine < SAME_PERSON:
        raise DatasetError(
            f"{places[first]} and {places[second]} show two different people (cosine {cosine:.2f}, one person's are "
            f"above {SAME_PERSON}): give footage of one person"
        )


def least_alike(vectors: torch.Tensor) -> tuple[float, int, int]:
    """How alike the two groups are that embeddings `(N, D)` of length one fall into: the cosine of their means, and a
    member of each. A group of a few is a mistaken face and counts as none: then the cosine is 1."""
    similar = vectors @ vectors.T
    first, second = divmod(int(similar.argmin()), len(vectors))
    nearer = similar[:, second] > similar[:, first]  # (N,) who belongs to the second
    share = nearer.float().mean().item()
    if min(share, 1 - share) < MIN_PERSON_SHARE:
        return 1.0, first, second
    means = [torch.nn.functional.normalize(vectors[group].mean(0), dim=0) for group in (nearer, ~nearer)]
    return float(means[0] @ means[1]), first, second


class FootageLabeller(Labeller):
    """Labels videos in short pieces, and of long footage only as much, spread over it, as there is time for."""

    def __init__(self, landmarker: Watched, options: LabelOptions, share: float):
        super().__init__(landmarker, None, options)
        self.share, self.voice = share, None

    def _listen(self, source: Source, report: Report) -> Voice:
        self.voice = super()._listen(source, report)
        return self.voice

    def _find_faces(self, source: Source, clock: VideoClock) -> tuple[np.ndarray, tuple[int, int]]:
        if self.share >= 1:
            return super()._find_faces(source, clock)
        fps = float(clock.fps)
        count = round(self.voice.duration * fps)
        pieces = cut_at_silences(self.voice.track, count, fps, self.options.max_seconds)
        number = np.arange(len(pieces))
        wanted = np.zeros(max(last for _, last in pieces), bool)
        for take, (first, last) in zip(
            np.floor((number + 1) * self.share) > np.floor(number * self.share), pieces, strict=True
        ):
            wanted[first:last] = take
        missing = np.full((468, 2), np.nan, np.float32)
        landmarks, frame_size = [], None
        try:
            with self.landmarker.watch(video=False) as find:
                for index, pixels in enumerate(read_frames(source.path, clock)):
                    frame_size = pixels.shape[:2]
                    look = index < len(wanted) and wanted[index]
                    found = find(pixels, int(index * 1000 / fps)) if look else None
                    landmarks.append(missing if found is None else found)
        except (av.FFmpegError, OSError) as error:
            raise LeftOut("unreadable", f"damaged after {len(landmarks)} frames: {error}") from error
        return np.stack(landmarks), frame_size


def prepare(
    sources: list[Source], seconds: dict[str, float] | None, aligner: FaceAlignerModel, landmarker: str,
    crop_size: int, max_seconds: float, folder: Path,
) -> Footage:  # fmt: skip
    """Label the footage into `folder`; the last fifth, as it was filmed, is held out.

    What `folder` holds of the same footage already is taken from there.

    Args:
        seconds: of each video by id; None: the sources are pictures.
        aligner: the base's own.
        landmarker: `BUNDLED`, that is this aligner, or the path of MediaPipe's face_landmarker.task.
        max_seconds: how much of longer footage to look at.

    Raises:
        DatasetError: too little is left, or `folder` holds other footage.
    """
    known = fingerprint(sources, aligner, (Path(landmarker).name, crop_size, max_seconds))
    settings = {"crop": "pose_driven", "crop_size": crop_size, "footage": known}
    if (folder / "schema.json").exists():
        if dataset.read_settings(folder).get("footage") != known:
            raise DatasetError(f"{folder} holds other footage, or other landmarks: give another --work, or remove it")
        if (folder / "clips").exists():
            return open_footage(folder, seconds is not None)
    total = 0.0 if seconds is None else sum(seconds.values())
    longest = float(np.clip(total / PIECES, *PIECE_SECONDS))
    options = LabelOptions("pose_driven", crop_size, None, "keep", 0, PICTURES_PER_PIECE, longest)
    share = 1.0 if seconds is None else min(1.0, max_seconds / total)
    if share < 1 and len(sources) >= 2 * PIECES:
        # Many files: whole ones, evenly spread.
        number = np.arange(len(sources))
        take = np.floor((number + 1) * share) > np.floor(number * share)
        sources, share = [source for source, kept in zip(sources, take, strict=True) if kept], 1.0
    count = len(sources) if seconds is None else int(sum(seconds[source.id] for source in sources) * share * 25)
    rows, report = [], Report()
    with tqdm(total=count, unit="frame", desc="looking and listening", disable=None) as bar:
        eyes = OwnLandmarker(aligner) if landmarker == BUNDLED else open_landmarker(landmarker)
        labeller = FootageLabeller(Watched(eyes, bar), options, share)
        for source in sources:
            label = labeller.portrait if seconds is None else labeller.video
            rows += [dataset.to_table(row) for row in label(source, report)]
    chosen = report.left_out if share == 1 else [e for e in report.left_out if "only 0 of" not in e["detail"]]
    names = {source.id: source.name for source in sources}
    left_out = [f"{named(entry['id'], names)}: {entry['reason']}: {entry['detail']}" for entry in chosen]
    reason = f" ({left_out[0]})" if left_out else ""
    if len(rows) < 2 or (seconds is None and len(rows) < MIN_PICTURES):
        raise DatasetError(f"only {len(rows)} pieces of the footage can be used{reason}: give more, and steadier")
    frames = np.array([entry["frames"] for entry in report.kept])
    usable = sum(len(row["crops"][0]) / row["fps"][0].as_py() for row in rows) if seconds is not None else 0.0
    if seconds is not None and usable < USABLE_SHARE * MIN_SECONDS:
        raise DatasetError(f"only {usable:.1f} s of the footage can be used{reason}: give more, and steadier")
    after = np.cumsum(frames[::-1])[::-1]  # frames from each piece to the end
    held = after <= max(HELD_OUT_SHARE * frames.sum() + frames[-1] / 2, frames[-1])
    split = {"train": [row for row, out in zip(rows, held, strict=True) if not out],
             "test": [row for row, out in zip(rows, held, strict=True) if out]}  # fmt: skip
    if not split["train"]:
        raise InvalidArgumentError("nothing is left to learn from: give longer footage")
    datasets.disable_progress_bars()
    settings["left_out"] = left_out
    try:
        # The settings first: they say that the folder is ours, should it not come to the clips.
        folder.mkdir(parents=True, exist_ok=True)
        dataset.write_settings(folder, settings)
        dataset.save_splits(folder / "clips", split)
    except (OSError, pa.ArrowException) as error:
        raise OutputError(f"{folder} cannot be written ({error}): make room, or give another --work") from error
    return open_footage(folder, seconds is not None)


def named(entry: str, names: dict[str, str]) -> str:
    """What the user calls a source, or a piece of one, by its id in the report; `names` are those of the sources."""
    source, _, piece = entry.partition("/")
    return names[source] + (f", piece {int(piece) + 1}" if piece else "")


def open_footage(folder: Path, videos: bool) -> Footage:
    """What `prepare` left in a folder."""
    data = dataset.load(folder)
    rows, held_out = dataset.Rows(data.clips["train"]), dataset.Rows(data.clips["test"])
    count = int(rows.num_frames.sum() + held_out.num_frames.sum())
    return Footage(rows, held_out, count / rows.fps(0) if videos else 0.0, data.settings["left_out"])


def fingerprint(sources: list[Source], aligner: FaceAlignerModel, settings: tuple) -> str:
    """Sixteen digits that change with the files, what is known of them, and who looks at them."""
    files = [(source.name, source.language, source.path.stat().st_size, source.path.stat().st_mtime_ns)
             for source in sources]  # fmt: skip
    transcripts = [source.transcript and source.transcript.read_bytes().hex() for source in sources]
    digest = hashlib.sha256(repr((files, transcripts, settings)).encode())
    for name, value in sorted(aligner.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy())
    return digest.hexdigest()[:16]
