"""One video or picture → rows of the dataset, or the reason why it is left out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
from landmarkers import BundledLandmarker, MediaPipeLandmarker
from layouts import Source
from speech_pieces import clip_phonemes, cut_at_silences, visual_units
from sync_check import check_sync
from transcripts import edge_differences, read_transcript, track_words
from upscaling import Upscale, crop_upscaled

from avatarsync.data.dataset import encode_image, encode_points
from avatarsync.errors import (
    AlignmentError,
    AvatarSyncError,
    InvalidFrameRateError,
    InvalidTrackError,
    SilentAudioError,
)
from avatarsync.face_mesh import LEFT_LOWER_LID, LEFT_UPPER_LID, RIGHT_LOWER_LID, RIGHT_UPPER_LID
from avatarsync.image_processing_face import (
    NUM_LANDMARKS,
    CropStrategy,
    crop_matrix,
    eye_centres,
    eye_distance,
    resize,
    smooth_matrices,
    transform_points,
)
from avatarsync.phonemes import SILENCE, PhonemeTrack, VisualMapping, listen, load_audio
from avatarsync.phonemes.audio import to_mono
from avatarsync.video import load_image
from avatarsync.video_frames import VideoClock, read_clock, read_frames

MIN_SECONDS = 0.8
MIN_TRACKED = 0.95  # share of the frames in which a face is found
# Sound and picture may end this far apart: seconds, and share of the clip.
LENGTH_TOLERANCE, LENGTH_SHARE = 0.5, 0.01
MAX_JUMP = 1.0  # eye distances from one frame to the next: beyond, it is a cut, or another face
PICTURE_SIDE, PICTURE_QUALITY = 512, 95
FACE_CENTRIC_SECONDS = 1.0  # a face-centric crop follows where the head goes, not how it nods
UPPER_LIP, LOWER_LIP = 13, 14
UPPER_LIDS, LOWER_LIDS = list(RIGHT_UPPER_LID + LEFT_UPPER_LID), list(RIGHT_LOWER_LID + LEFT_LOWER_LID)
USUAL_QUANTILE = 0.8  # of a clip's lid openings: eyes are open most of the time

UNREADABLE, WRONG_LENGTH, NO_SPEECH, NO_FACE = "unreadable", "wrong length", "no speech", "no face"
CUT, DRIFTING, MISFIT = "cut or second face", "drifting sync", "transcript does not fit"


@dataclass(frozen=True)
class LabelOptions:
    """What decides how a source is labelled; the flags of prepare_data.py explain each."""

    crop: CropStrategy
    crop_size: int
    fps: Fraction | None
    sync: str
    max_lag: int
    pictures_per_clip: int
    max_seconds: float


@dataclass
class Report:
    """What became of one source: `kept` rows, parts `left_out` with reason and detail; seconds by which words begin
    and end after the transcript's times, where it has some."""

    kept: list[dict] = field(default_factory=list)
    left_out: list[dict] = field(default_factory=list)
    word_starts: list[float] = field(default_factory=list)
    word_ends: list[float] = field(default_factory=list)

    def leave_out(self, name: str, error: "LeftOut") -> None:
        self.left_out.append({"id": name, "reason": error.reason, "detail": error.detail})


class LeftOut(Exception):
    """A source, or a piece of it, does not get into the dataset."""

    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, " ".join(detail.split())
        super().__init__(f"{reason}: {self.detail}")


@dataclass
class Voice:
    """What is heard in a video: phonemes, text, mono samples and their rate."""

    track: PhonemeTrack
    text: str
    audio: np.ndarray
    sampling_rate: int

    @property
    def duration(self) -> float:
        return len(self.audio) / self.sampling_rate


@dataclass
class Piece:
    """A stretch of a video that becomes a row: all of it but its pictures is known.

    Attributes:
        row: the row, with empty lists of pictures.
        entry: its line in the report.
        indices: `(T,)` the frames of the video that it shows.
        faces: landmarks `(T, 468, 2)` in pixels of the frames.
        matrices: `(T, 2, 3)` frame → crop.
        whole: the places among the T that are kept as whole frames too.
    """

    row: dict
    entry: dict
    indices: np.ndarray
    faces: np.ndarray
    matrices: np.ndarray
    whole: set[int]


class Labeller:
    """Labels sources, with the models loaded once."""

    def __init__(
        self, landmarker: BundledLandmarker | MediaPipeLandmarker, upscale: Upscale | None, options: LabelOptions
    ):
        self.landmarker, self.upscale, self.options = landmarker, upscale, options
        self.mapping = VisualMapping.default()

    def portrait(self, source: Source, report: Report) -> Iterator[dict]:
        """The row of a picture."""
        try:
            pixels = load_image(source.path)
        except AvatarSyncError as error:
            return report.leave_out(source.id, LeftOut(UNREADABLE, str(error)))
        with self.landmarker.watch(video=False) as find:
            landmarks = find(pixels, 0)
        if landmarks is None:
            return report.leave_out(source.id, LeftOut(NO_FACE, "none found in the picture, or too small a one"))
        matrix = crop_matrix(landmarks, self.options.crop_size, self.options.crop)
        row = self._row(source, source.id, landmarks[None], matrix[None], pixels.shape[:2], 0.0)
        piece = Piece(row, {"id": source.id, "frames": 1}, np.zeros(1, int), landmarks[None], matrix[None], {0})
        self._draw(piece, 0, pixels)
        report.kept.append(piece.entry)
        yield row

    def video(self, source: Source, report: Report) -> Iterator[dict]:
        """The rows of a video, one per piece of at most `max_seconds`: no more than two are held at a time."""
        try:
            clock = self._read_clock(source)
            voice = self._listen(source, report)
            landmarks, frame_size = self._find_faces(source, clock)
            fps = float(clock.fps)
            seconds = len(landmarks) / fps
            if abs(seconds - voice.duration) > LENGTH_TOLERANCE + LENGTH_SHARE * seconds:
                raise LeftOut(WRONG_LENGTH, f"{seconds:.2f} s of picture, {voice.duration:.2f} s of sound")
        except LeftOut as error:
            return report.leave_out(source.id, error)
        pieces = []
        stretches = cut_at_silences(voice.track, len(landmarks), fps, self.options.max_seconds)
        for number, stretch in enumerate(stretches):
            name = source.id if len(stretches) == 1 else f"{source.id}/{number:03}"
            try:
                piece = self._plan(source, name, stretch, landmarks, frame_size, voice, fps)
            except LeftOut as error:
                report.leave_out(name, error)
                continue
            if len(stretches) == 1 and voice.text:
                piece.row["text"] = voice.text
            pieces.append(piece)
        try:
            # Decoding twice costs little beside finding faces; holding ten minutes of frames would cost gigabytes.
            for index, pixels in enumerate(read_frames(source.path, clock) if pieces else ()):
                for piece in pieces:
                    for place in np.flatnonzero(piece.indices == index):
                        self._draw(piece, int(place), pixels)
                while pieces and pieces[0].indices[-1] <= index:
                    piece = pieces.pop(0)
                    report.kept.append(piece.entry)
                    yield piece.row
                if not pieces:
                    break
        except (av.FFmpegError, OSError) as error:
            for piece in pieces:
                report.leave_out(piece.row["id"], LeftOut(UNREADABLE, str(error)))

    def _read_clock(self, source: Source) -> VideoClock:
        try:
            clock = read_clock(source.path, self.options.fps, source.audio is None)
        except (av.FFmpegError, OSError, InvalidFrameRateError) as error:
            raise LeftOut(UNREADABLE, str(error)) from error
        if source.audio is None and not clock.has_sound:
            raise LeftOut(NO_SPEECH, "the video has no sound track")
        return clock

    def _listen(self, source: Source, report: Report) -> Voice:
        try:
            transcript = None
            if source.transcript is not None:
                transcript = read_transcript(source.transcript, source.first_line)
                if transcript is None:
                    raise LeftOut(NO_SPEECH, f"no word in {source.transcript.name}")
            audio, rate = load_audio(source.audio or source.path)
            track = listen(audio, rate, transcript and transcript.text, source.language).track
        except SilentAudioError as error:
            raise LeftOut(NO_SPEECH, str(error)) from error
        except (AlignmentError, InvalidTrackError) as error:
            raise LeftOut(MISFIT, str(error)) from error
        except AvatarSyncError as error:
            raise LeftOut(UNREADABLE, str(error)) from error
        if all(phoneme.symbol == SILENCE for phoneme in track):
            raise LeftOut(NO_SPEECH, "no phoneme heard in it")
        if transcript is not None and transcript.words:
            report.word_starts, report.word_ends = edge_differences(track, transcript.words)
        return Voice(track, transcript.text if transcript else "", to_mono(audio), rate)

    def _find_faces(self, source: Source, clock: VideoClock) -> tuple[np.ndarray, tuple[int, int]]:
        """Landmarks `(T, 468, 2)` of all frames in pixels, NaN where no face is found, and the frames' size."""
        missing = np.full((NUM_LANDMARKS, 2), np.nan, np.float32)
        landmarks, frame_size = [], None
        try:
            # Each frame for itself: what MediaPipe smooths in time is late, and drags closed lips open.
            with self.landmarker.watch(video=False) as find:
                for index, pixels in enumerate(read_frames(source.path, clock)):
                    if frame_size not in (None, pixels.shape[:2]):
                        raise LeftOut(UNREADABLE, f"the frames change their size after {index}")
                    frame_size = pixels.shape[:2]
                    found = find(pixels, int(index * 1000 / clock.fps))
                    landmarks.append(missing if found is None else found)
        except (av.FFmpegError, OSError) as error:
            raise LeftOut(UNREADABLE, f"damaged after {len(landmarks)} frames: {error}") from error
        if frame_size is None:
            raise LeftOut(UNREADABLE, "it holds no frame")
        return np.stack(landmarks), frame_size

    def _plan(
        self,
        source: Source,
        name: str,
        stretch: tuple[int, int],
        landmarks: np.ndarray,
        frame_size: tuple[int, int],
        voice: Voice,
        fps: float,
    ) -> Piece:
        """The piece of a video between two frames.

        Raises:
            LeftOut: it is too short, without a face, cut, or its sound drifts.
        """
        first, last = stretch
        options = self.options
        if (last - first) / fps < MIN_SECONDS:
            raise LeftOut(WRONG_LENGTH, f"{last - first} frames, less than {MIN_SECONDS} s")
        indices = np.arange(first, last)
        faces = fill_gaps(landmarks[indices])
        heard = voice.audio[round(first / fps * voice.sampling_rate) : round(last / fps * voice.sampling_rate)]
        opening = np.linalg.norm(faces[:, LOWER_LIP] - faces[:, UPPER_LIP], axis=-1) / eye_distance(faces)
        sync = check_sync(opening, heard, voice.sampling_rate, fps, options.max_lag)
        if abs(sync.lag) > options.max_lag:
            if options.sync == "leave_out":
                raise LeftOut(DRIFTING, f"the picture is {sync.lag:+d} frames late, r = {sync.correlation:.2f}")
            if options.sync == "shift":
                # Frames move, phonemes stay with the sound; what was filmed before it is the first frame, repeated.
                indices = np.arange(first + sync.lag, min(last + sync.lag, len(landmarks))).clip(0)
                faces = fill_gaps(landmarks[indices])
        matrices = np.stack([crop_matrix(points, options.crop_size, options.crop) for points in faces])
        if options.crop == "face_centric":
            reach = max(1, round(FACE_CENTRIC_SECONDS * fps / 2))
            matrices = smooth_matrices(matrices, tuple(np.bartlett(2 * reach + 3)[1:-1]))
        else:
            matrices = smooth_matrices(matrices)
        row = self._row(source, name, faces, matrices, frame_size, fps)
        phonemes = clip_phonemes(voice.track, first / fps, (first + len(indices)) / fps)
        row["phonemes"] = [
            {"symbol": entry.symbol, "start": entry.start, "end": entry.end, "word": entry.word} for entry in phonemes
        ]
        row["units"] = visual_units(phonemes, self.mapping, len(indices) / fps)
        row["text"] = " ".join(word for *_, word in track_words(phonemes))
        row["sync_lag"], row["sync_correlation"] = sync.lag, sync.correlation
        entry = {"id": name, "frames": len(indices), "lag": sync.lag, "correlation": round(sync.correlation, 3)}
        whole = np.linspace(0, len(indices) - 1, options.pictures_per_clip + 2)[1:-1].round().astype(int)
        return Piece(row, {**entry, "clear": sync.clear}, indices, faces, matrices, set(whole.tolist()))

    def _row(
        self,
        source: Source,
        name: str,
        faces: np.ndarray,
        matrices: np.ndarray,
        frame_size: tuple[int, int],
        fps: float,
    ) -> dict:
        """A row without pictures and speech; `faces` `(T, 468, 2)` in pixels of the source."""
        lids = (faces[:, LOWER_LIDS] - faces[:, UPPER_LIDS]).mean(1)  # (T, 2)
        lids = np.linalg.norm(lids, axis=-1) / eye_distance(faces)
        return {
            "id": name,
            "speaker": source.speaker,
            "source": source.name,
            "language": source.language,
            "text": "",
            "fps": fps,
            "frame_size": list(frame_size),
            "crops": [],
            "landmarks": encode_points(transform_points(faces, matrices) / self.options.crop_size),
            "matrices": encode_points(matrices),
            "openness": list(lids / max(np.quantile(lids, USUAL_QUANTILE), 1e-6)),
            "phonemes": [],
            "units": [],
            "sync_lag": np.nan,
            "sync_correlation": np.nan,
            "pictures": [],
            "picture_landmarks": [],
        }

    def _draw(self, piece: Piece, place: int, pixels: np.ndarray) -> None:
        """Add the pictures of one frame `(H, W, 3) uint8` to a row."""
        crop = crop_upscaled(pixels, piece.matrices[place], self.options.crop_size, self.upscale)
        piece.row["crops"].append(encode_image(crop))
        if place in piece.whole:
            height, width = pixels.shape[:2]
            scale = min(1.0, PICTURE_SIDE / max(height, width))
            size = (round(width * scale), round(height * scale))
            picture = pixels if scale == 1 else resize(pixels, size)
            ratio = np.array(size) / (width, height)
            points = (piece.faces[place] + 0.5) * ratio - 0.5
            piece.row["pictures"].append(encode_image(picture, PICTURE_QUALITY))
            piece.row["picture_landmarks"] += encode_points(points[None])


def fill_gaps(faces: np.ndarray) -> np.ndarray:
    """Landmarks `(T, 468, 2)` where frames without a face (NaN) take those of the nearest one before, or after.

    So the numbers of the frames stay those of the sound.

    Raises:
        LeftOut: more than 5 % of the frames lack a face, or it jumps.
    """
    found = np.flatnonzero(np.isfinite(faces[:, 0, 0]))
    if len(found) < MIN_TRACKED * len(faces) or len(found) == 0:
        raise LeftOut(NO_FACE, f"a face in only {len(found)} of {len(faces)} frames")
    nearest = found[np.maximum(np.searchsorted(found, np.arange(len(faces)), side="right") - 1, 0)]
    faces = faces[nearest]
    middle = sum(eye_centres(faces)) / 2
    jumps = np.linalg.norm(np.diff(middle, axis=0), axis=-1) / eye_distance(faces)[1:]
    if len(jumps) and jumps.max() > MAX_JUMP:
        raise LeftOut(CUT, f"the face jumps at frame {int(jumps.argmax()) + 1} of {len(faces)}")
    return faces
