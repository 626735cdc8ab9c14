"""The run: generate what is to be generated, measure every system on the same clips, write the report."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import AvatarSyncError, DatasetError, InvalidArgumentError, MissingDependencyError, OutputError
from ..metrics import inner_lip_gap
from ..metrics.modules.streaming import StreamingMetric
from ..modeling_avatarsync import AvatarSyncModel
from ..modeling_face_aligner import FaceAlignerModel
from ..phonemes import PhonemeTrack, Speech, listen, load_audio
from ..phonemes.text import resolve_language
from ..pipelines.talking_head import AvatarSyncPipeline, bundled_weights
from ..sync import FPS, read_sound
from ..video import VideoWriter
from .figures import figures_of
from .landmarks import find_landmarks
from .material import GENERATED, OURS, REAL, Case, Material, check_new_folder
from .measuring import (
    Networks,
    check_length,
    frames_of,
    make_metrics,
    make_real_metrics,
    measure_pair,
    measure_real,
    read_off,
)
from .protocol import SEED, describe
from .report import Report, check_plots, write_report

LENGTH_TOLERANCE = 0.1  # by which a generated video may differ from the real one without a remark


def evaluate(
    material: Material,
    out: str | Path,
    networks: Networks | None = None,
    talk: AvatarSyncPipeline | None = None,
    language: str = "en-us",
    plots: bool = False,
    device: str = "cpu",
) -> Report:
    """Measure every system on all clips and write the folder `out`, whole or not at all.

    A clip that cannot be generated or measured for one system is left out for all, with a remark.

    Args:
        material: what `find_material` found.
        out: a folder that does not exist yet, or is empty.
        networks: what `Networks.load` loaded; its defaults where None.
        talk: the model that is run, where the material wants it; the bundled one where None.
        language: of the transcripts.
        plots: draw curves of the lips' opening (matplotlib).
        device: where the networks run.

    Raises:
        InvalidArgumentError: a model for pairs. UnknownLanguageError: see `listen`.
        OutputError: `out` holds something, or cannot be written.
        MissingDependencyError: matplotlib is not installed, or what a default network needs.
        DatasetError: none of the clips could be measured.
    """
    out = check_new_folder(out)
    resolve_language(language)
    if talk is not None and not material.generate:
        raise InvalidArgumentError("pairs are compared as they are: leave out the model (--model)")
    if plots:
        check_plots()
    networks = Networks.load() if networks is None else networks
    if material.generate and talk is None:
        talk = AvatarSyncPipeline.from_pretrained(None, device=device)
    aligner = AvatarSyncModel.from_pretrained(bundled_weights()).face_aligner.eval()
    with whole_folder(out) as folder:
        report = _Run(material, networks, aligner, talk, language, device, folder).measure()
        write_report(folder, report, plots)
    return report


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`, which takes its name if the block ends well and is removed if it does not."""
    partial = out.absolute().with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir()
    except OSError as error:
        raise OutputError(f"{out.parent} cannot be written to ({error}): choose another folder") from error
    try:
        yield partial
        check_new_folder(out)  # someone else may have written it meanwhile
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        if isinstance(error, AvatarSyncError):
            raise
        raise OutputError(f"{out} cannot be written ({error}): free some space") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@dataclass
class _Run:
    material: Material
    networks: Networks
    aligner: FaceAlignerModel
    talk: AvatarSyncPipeline | None
    language: str
    device: str
    folder: Path
    remarks: list[str] = field(default_factory=list)

    def measure(self) -> Report:
        systems = self.material.systems
        totals = {name: make_metrics(self.networks, self.device) for name in systems}
        totals[REAL] = make_real_metrics(self.networks, self.device)
        per_clip, curves, left_out = [], {}, []
        for case in tqdm(self.material.cases, desc="clips", unit="clip", disable=None):
            try:
                measured, openings = self._measure_case(case)
            except (OutputError, MissingDependencyError):
                raise  # as wrong for every other clip
            except AvatarSyncError as error:
                left_out.append(f"left out: {case.name}: {' '.join(str(error).split())}")
                continue
            curves[case.name] = openings
            for name, metrics in measured.items():
                for key, metric in metrics.items():
                    totals[name][key].merge(metric)
                frames = {"frames": min(len(openings[name]), len(openings[REAL]))}
                per_clip.append({"clip": case.name, "system": name} | frames | read_off(metrics))
        if not curves:
            raise DatasetError(f"none of {len(self.material.cases)} clips could be measured; {left_out[0]}")
        figures = {name: read_off(metrics) for name, metrics in totals.items()}
        remarks = [*self.material.remarks, *left_out, *self.remarks]
        protocol = describe(self.material, len(curves), self.networks, self.talk, self.language, figures)
        return Report(figures_of(self.networks), figures, per_clip, curves, remarks, protocol)

    def _measure_case(self, case: Case) -> tuple[dict[str, dict[str, StreamingMetric]], dict[str, np.ndarray]]:
        """Metrics of this clip alone, by system, and curves of the lips' opening `(T,)`; the real video's in both."""
        real_landmarks, shape = self._look(case.real, case.own_sound, None)
        sound = None if self.networks.sync is None else read_sound(case.sound, len(real_landmarks))
        outputs = case.outputs
        if self.material.generate:
            speech = self._speech(case)
            outputs = {OURS: self._generate(case, speech), **outputs}
            # What a recogniser heard without knowing the words is too rough to say when lips must be shut.
            track = speech.track if case.words_known else None
        else:
            track = self._track(case)
        measured, landmarks = {}, {REAL: real_landmarks}
        for name in self.material.systems:
            path = outputs[name]
            landmarks[name], _ = self._look(path, False, shape)
            difference = len(landmarks[name]) - len(real_landmarks)
            if abs(difference) > LENGTH_TOLERANCE * len(real_landmarks):
                self.remarks.append(f"{name}, {case.name}: {difference:+d} frames against the real video's")
            measured[name] = make_metrics(self.networks, self.device)
            videos = frames_of(path, False, shape), frames_of(case.real, case.own_sound)
            measure_pair(measured[name], *videos, landmarks[name], real_landmarks, sound, track)
        measured[REAL] = make_real_metrics(self.networks, self.device)
        measure_real(measured[REAL], frames_of(case.real, case.own_sound), real_landmarks, sound, track)
        return measured, {name: inner_lip_gap(points) for name, points in landmarks.items()}

    def _look(self, path: Path, own_sound: bool, shape: tuple[int, int] | None) -> tuple[np.ndarray, tuple[int, int]]:
        """Landmarks `(T, 468, 2)` of a video and the height and width of its frames, brought to `shape`."""
        frames = frames_of(path, own_sound, shape)
        first = next(frames, None)
        if first is None:
            raise DatasetError(f"{path.name} has no frames: export it again")
        landmarks = find_landmarks(self.aligner, chain([first], frames), path.name)
        check_length(len(landmarks), path.name)
        return landmarks, first.shape[:2]

    def _speech(self, case: Case) -> Speech:
        """What the model is to say."""
        if case.track is None:
            return listen(str(case.sound), transcript=case.transcript, language=self.language)
        track = PhonemeTrack.load(case.track)
        return Speech(track, *load_audio(case.sound), track.language)

    def _track(self, case: Case) -> PhonemeTrack | None:
        """What is said in a pair, where something beside it says so."""
        if case.track is not None:
            return PhonemeTrack.load(case.track)
        return self._speech(case).track if case.words_known else None

    def _generate(self, case: Case, speech: Speech) -> Path:
        """The model's video of a clip, as a file of the report, and the phonemes that its lips follow."""
        reference = case.reference
        if reference is None:
            reference = next(frames_of(case.real, case.own_sound))
        folder = self.folder / GENERATED
        folder.mkdir(exist_ok=True)
        stream = self.talk.stream(reference, speech=speech, fps=FPS, seed=SEED)
        path = folder / f"{case.name}.mp4"
        with VideoWriter(path, FPS, stream.height, stream.width, stream.audio, stream.sampling_rate) as writer:
            for frame in stream:
                writer.write(frame)
        stream.track.save(path.with_suffix(".json"))
        return path
