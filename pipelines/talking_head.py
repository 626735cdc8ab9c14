"""AvatarSyncPipeline: `pipeline("talking-head")`.

    talk = pipeline("talking-head")
    talk("face.jpg", text="Hello, it is good to see you.").save("hello.mp4")

Everything goes through `stream`; calling the pipeline collects what it yields.
"""

import copy
import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avatarsync.pipelines.attention_window import with_attention_window
from avatarsync.pipelines.rerendering import changed_frames, select_frames
from avatarsync.pipelines.solo_threads import compute_alone
from avatarsync.pipelines.streaming import FrameStream
from avatarsync.pipelines.uploading import UPLOAD_OPTIONS, upload_model
from avatarsync.pipelines.usual_settings import in_usual_settings
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError
from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from avatarsync.adapters import Identities
from avatarsync.errors import AvatarSyncError, InvalidArgumentError, InvalidImageError, ModelLoadError, OutputError
from avatarsync.expression_transfer import ARTICULATIONS
from avatarsync.head_motion import MOTIONS
from avatarsync.modeling_avatarsync import AvatarSyncModel
from avatarsync.outputs import Making, TalkingHeadVideo
from avatarsync.phonemes import PhonemeTrack, Speech, listen, speak
from avatarsync.phonemes.audio import check_audio
from avatarsync.processing_avatarsync import AvatarSyncProcessor
from avatarsync.rendering import FaceRenderer
from avatarsync.schedule import parse_frame_rate
from avatarsync.video import load_image

TASK = "talking-head"
DEFAULT_LANGUAGE = "en-us"
# Seconds of silence about a synthesised speech, which begins and ends with a phoneme: a video begins and ends at rest.
REST_BEFORE, REST_AFTER = 0.3, 0.4
# Models on the Hub are OWNER/NAME; anything else is a folder, about which the Hub need not be asked.
HUB_ID = r"[\w.-]+/[\w.-]+"
# What a private or tagged repository needs, for its config and processor as for its weights.
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
ImageSource = str | os.PathLike | bytes | np.ndarray | Image.Image
AudioSource = str | os.PathLike | np.ndarray | dict


def bundled_weights() -> Path:
    """Folder of the weights that come with the package."""
    import avatarsync

    return Path(avatarsync.__file__).parent / "weights" / "base"


class AvatarSyncPipeline(Identities, Pipeline):
    """A portrait and a text or a voice → a video of that person speaking.

    Args of a call (and of `stream`, which yields the frames one by one):
        image: portrait: path, PIL image, bytes or `(H, W, 3) uint8`; the output has its size. A list of portraits
            gives a list of videos.
        text: what to say, with `language` (an espeak-ng language, default "en-us") and `voice`.
        audio: or a recording to follow: a path, an array with `sampling_rate`, or both under "array" and
            "sampling_rate", as `datasets` has them; `transcript` makes it exact.
            `recognizer` names a Hub model that reads phonemes or words from a recording without a transcript.
        speech: or a `Speech` that `speak` or `listen` returned, edited or not.
        fps: frames per second, 10 to 60, also "30000/1001"; 25 unless told.
        seed: the same seed gives the same video.
        temperature: 0 takes the mean keyframes; above, they are sampled.
        blink: whether the eyes blink.
        motion: "subtle" lets the head sway a little and rise with the speech, "still" holds it where it is.
        articulation: how far lips and jaw go, from 0.25, mumbled, to 2; 1 as far as in the training videos.
        attention_window: how many phonemes before and after its own shape the mouth, e.g. (0, 0) for its own alone;
            at most and by default what the model was trained with.
        face_index: which of several faces, 0 is the largest.
        face_box: (x, y, width, height) in pixels, where the detector fails.
        frames: of `stream` alone: increasing indices of the frames to draw, all unless given.

    Returns:
        `TalkingHeadVideo`.

    Raises:
        AvatarSyncError: one of its kinds for every sort of bad input, before any frame is drawn.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model: AvatarSyncModel, processor: AvatarSyncProcessor | None = None, **kwargs):
        if not isinstance(model, AvatarSyncModel):
            raise ModelLoadError(
                f"talking-head needs an AvatarSyncModel, this is a {type(model).__name__}: give a folder or Hub id "
                "that AvatarSyncPipeline.save_pretrained wrote"
            )
        if model.dtype != torch.float32:
            raise InvalidArgumentError(
                f"the model runs in float32, this one was loaded as {model.dtype}: leave dtype out"
            )
        if isinstance(device := kwargs.get("device"), int):  # transformers counts accelerators; -1 is the CPU
            kind = torch.accelerator.current_accelerator() or torch.device("cuda")
            device = "cpu" if device < 0 else f"{kind.type}:{device}"
        if device is not None:
            kwargs["device"] = _usable_device(device)
        super().__init__(model=model, processor=processor or AvatarSyncProcessor(), **kwargs)
        self.processor.check_units(model.config.keyframe_generator_config.num_units)
        self.model.eval()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None = None,
        device: str | torch.device = "cpu",
        **kwargs,
    ) -> "AvatarSyncPipeline":
        """Load a folder or Hub id that `save_pretrained` wrote; None loads the bundled weights.

        Raises:
            ModelLoadError: no such folder or model, or one of another type.
        """
        source = bundled_weights() if pretrained_model_name_or_path is None else pretrained_model_name_or_path
        source = str(source)
        advice = (
            "give a folder or Hub id that AvatarSyncPipeline.save_pretrained wrote, or none for the bundled weights"
        )
        hub = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
        if os.path.isfile(source):
            raise ModelLoadError(f"{source} is a file: {advice}")
        if not os.path.isdir(source) and not re.fullmatch(HUB_ID, source):
            raise ModelLoadError(f"there is no folder {source}: {advice}")
        device = _usable_device(device)
        try:
            model = AvatarSyncModel.from_pretrained(source, use_safetensors=True, **kwargs)
            processor = AvatarSyncProcessor.from_pretrained(source, **hub)
        except AvatarSyncError:
            raise
        except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
            raise ModelLoadError(f"{source} cannot be loaded ({str(error).splitlines()[0]}): {advice}") from error
        return cls(model=model, processor=processor, device=device, task=TASK)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Write config, weights (safetensors) and processor to a folder; `push_to_hub=True` uploads it as well.

        Args:
            kwargs: of transformers' `save_pretrained`, and of an upload: `repo_id` (the folder's name unless given),
                `private`, `token`, `revision`, `create_pr`, `commit_message`, `commit_description`.

        Raises:
            AdapterError: identities are loaded, which have folders of their own.
            OutputError: the folder is a file; or it is saved, and could not be uploaded.
        """
        if os.path.isfile(save_directory):
            raise OutputError(f"{save_directory} is a file: give a folder")
        self.refuse_to_save_identities()
        upload = {option: kwargs.pop(option) for option in UPLOAD_OPTIONS if option in kwargs}
        # The base class would skip the processor and write `custom_pipelines`, which later asks for remote code.
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        # safetensors writes for its owner alone, whatever the umask; others may read a model as they may its config.
        for weights in Path(save_directory).glob("*.safetensors"):
            shutil.copymode(Path(save_directory) / "config.json", weights)
        if push_to_hub:
            upload_model(Path(save_directory), **upload)

    def to(self, device: str | torch.device) -> "AvatarSyncPipeline":
        """Move the model, e.g. `.to("cuda")`; returns the pipeline."""
        self.device = _usable_device(device)
        self.model.to(self.device)
        return self

    def speak(self, text: str, language: str = DEFAULT_LANGUAGE, voice: str | None = None) -> Speech:
        """Synthesised speech with its exact phonemes, 0.3 s of silence before and 0.4 s after it.

        Edit the track and hand it back as `speech=`.
        """
        return speak(text, language=language, voice=voice).padded(REST_BEFORE, REST_AFTER)

    @in_usual_settings
    def listen(
        self,
        audio: AudioSource,
        transcript: str | None = None,
        language: str = DEFAULT_LANGUAGE,
        sampling_rate: int | None = None,
        recognizer: str | None = None,
    ) -> Speech:
        """A recording with its phonemes, aligned to `transcript` or recognised."""
        return listen(audio, sampling_rate, transcript=transcript, language=language, recognizer=recognizer)

    @in_usual_settings
    def stream(
        self,
        image: ImageSource,
        *,
        text: str | None = None,
        audio: AudioSource | None = None,
        transcript: str | None = None,
        speech: Speech | None = None,
        language: str | None = None,
        voice: str | None = None,
        sampling_rate: int | None = None,
        recognizer: str | None = None,
        fps: int | float | str | Fraction | None = None,
        seed: int = 0,
        temperature: float = 0.0,
        blink: bool = True,
        motion: str = "subtle",
        articulation: float = 1.0,
        attention_window: tuple[int, int] | None = None,
        face_index: int | None = None,
        face_box: tuple[float, float, float, float] | None = None,
        frames: Sequence[int] | None = None,
    ) -> FrameStream:
        """Frames one by one in flat memory; the arguments are the class's."""
        given = [name for name, value in (("text", text), ("audio", audio), ("speech", speech)) if value is not None]
        if len(given) != 1:
            wrong = f"got {' and '.join(given)}" if given else "got none of them"
            raise InvalidArgumentError(f"give exactly one of text=, audio= or speech= ({wrong})")
        if text is None and voice is not None:
            raise InvalidArgumentError("voice= is the speaker of a text: give it with text=")
        if audio is None and (transcript is not None or recognizer is not None or sampling_rate is not None):
            raise InvalidArgumentError("transcript=, recognizer= and sampling_rate= belong to audio=")
        if speech is not None and language is not None:
            raise InvalidArgumentError("language= belongs to text= or audio=: a speech already has its phonemes")
        if text is not None and not isinstance(text, str):
            raise InvalidArgumentError(f"text= is a {type(text).__name__}: give a string")
        check_options(seed, temperature, motion, articulation)
        seed, temperature, articulation = int(seed), float(temperature), float(articulation)  # none of NumPy's
        options = {
            "seed": seed,
            "temperature": temperature,
            "blink": blink,
            "motion": motion,
            "articulation": articulation,
            "attention_window": attention_window,
            "face_index": face_index,
            "face_box": face_box,
        }
        self._check_model()
        model = self._windowed_model(attention_window)
        fps = parse_frame_rate(self.processor.fps if fps is None else fps)
        if speech is not None:
            _check_speech(speech)
            # Whoever makes the speech louder afterwards does not change the videos that have it.
            speech = replace(speech, audio=speech.audio.copy())
        pixels = load_image(image)
        aligner = self.model.face_aligner
        alignment = compute_alone(self.device, aligner.align, pixels, face_index=face_index, face_box=face_box)
        alignment.check_can_speak()
        language = language or DEFAULT_LANGUAGE
        if text is not None:
            speech = self.speak(text, language, voice)
        elif audio is not None:
            speech = self.listen(audio, transcript, language, sampling_rate, recognizer)
        schedule = self.processor(speech, fps)
        making = Making(pixels, schedule, options, self.identity)
        if frames is not None:
            schedule = select_frames(model, schedule, frames, temperature)
        tokenizer, crop_strategy = self.model.visual_tokenizer, self.model.config.crop_strategy
        moving_head = motion == "subtle"
        # The teeth of a known speaker are known to the painter alone.
        drawing = {"prepare": False, "articulation": articulation, "only_paint": self.knows_speaker}
        renderer = compute_alone(
            self.device, FaceRenderer, tokenizer, pixels, alignment, crop_strategy, moving_head, **drawing
        )
        return FrameStream(
            model, renderer, speech, schedule, seed, temperature, blink, motion, self.personalise, making
        )

    @in_usual_settings
    def changed_frames(self, making: Making, speech: Speech) -> np.ndarray:
        """Indices of the frames that differ from an earlier video's where the same audio gets another track.

        Args:
            making: of the earlier video or stream.
            speech: with its audio and the edited track.

        Raises:
            InvalidArgumentError: another duration, or another identity speaks now.
        """
        _check_speech(speech)
        if making.identity != self.identity:
            raise InvalidArgumentError(
                f"the earlier video was made as {making.identity or 'the base'}, now {self.identity or 'the base'} "
                f"speaks: set_identity({making.identity!r}) first"
            )
        schedule = self.processor(speech, making.schedule.frames.fps)
        return changed_frames(self._windowed_model(making.options["attention_window"]), making, schedule)

    def rerender(self, video: TalkingHeadVideo, track: PhonemeTrack | None = None) -> TalkingHeadVideo:
        """The video with other phonemes: only the frames that these can change are drawn, the others are copied.

            video.track[3].end += 0.05
            video = talk.rerender(video)

        Args:
            video: what this pipeline returned, wearing the same identity as now.
            track: the edited track; None takes the video's own, edited in place.

        Raises:
            InvalidArgumentError: a video of another origin, or whose `fps` was changed.
            InvalidTrackError: see `PhonemeTrack.validate`.
        """
        if not isinstance(video, TalkingHeadVideo):
            raise InvalidArgumentError(
                f"a {type(video).__name__} is no TalkingHeadVideo: give what the pipeline returned"
            )
        if video.making is None:
            raise InvalidArgumentError("this video does not say how it was made: give one that the pipeline returned")
        made_at = video.making.schedule.frames.fps
        if video.fps != made_at:
            raise InvalidArgumentError(
                f"the video's frames were made at {made_at} per second, its fps is now {video.fps}: "
                f"set it back, or make the video anew with fps={video.fps}"
            )
        num_frames = video.making.schedule.frames.num_frames
        if len(video.frames) != num_frames:
            raise InvalidArgumentError(
                f"the video was made with {num_frames} frames and has {len(video.frames)} now: render the whole one "
                "again, and cut that"
            )
        track = video.track if track is None else track
        _check_track(track)
        speech = Speech(track, video.audio, video.sampling_rate, track.language)
        changed = self.changed_frames(video.making, speech)
        frames, making = video.frames.copy(), video.making
        if len(changed):
            options = {**making.options, "fps": video.fps, "frames": changed}
            stream = self.stream(making.image, speech=speech, **options)
            for index, frame in zip(changed, stream, strict=True):
                frames[index] = frame
            making = stream.making
        return TalkingHeadVideo(frames, video.audio, video.sampling_rate, video.fps, copy.deepcopy(track), making)

    def _check_model(self) -> None:
        """Raises InvalidArgumentError where the model was changed since it became the pipeline's."""
        if self.model.dtype != torch.float32:
            raise InvalidArgumentError(f"the model runs in float32, it is {self.model.dtype} now: call model.float()")
        if self.model.training:
            raise InvalidArgumentError("the model is being trained, and draws at random: call model.eval() before")

    def _windowed_model(self, attention_window: tuple[int, int] | None) -> AvatarSyncModel:
        return self.model if attention_window is None else with_attention_window(self.model, attention_window)

    def __call__(
        self, image: ImageSource | list[ImageSource], **kwargs: Any
    ) -> TalkingHeadVideo | list[TalkingHeadVideo]:
        for option in ("num_workers", "batch_size"):
            if kwargs.pop(option, None) not in (None, 0, 1):
                raise InvalidArgumentError(f"{option}= has no use here: portraits are drawn one after the other")
        if isinstance(image, list) and not image:
            raise InvalidImageError("the list of portraits is empty: give at least one")
        if kwargs.get("frames") is not None:
            raise InvalidArgumentError("frames= picks frames of a stream: a video has them all")
        return super().__call__(image, **kwargs)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        return kwargs, {}, {}

    def preprocess(self, image: ImageSource, **kwargs: Any) -> dict[str, FrameStream]:
        return {"stream": self.stream(image, **kwargs)}

    def _forward(self, model_inputs: dict[str, FrameStream]) -> dict[str, Any]:
        stream = model_inputs["stream"]
        frames = np.empty((stream.num_frames, stream.height, stream.width, 3), np.uint8)
        for index, frame in enumerate(stream):
            frames[index] = frame
        return {"frames": frames, "stream": stream}

    def postprocess(self, model_outputs: dict[str, Any]) -> TalkingHeadVideo:
        stream = model_outputs["stream"]
        sound = (stream.audio, stream.sampling_rate)
        return TalkingHeadVideo(model_outputs["frames"], *sound, stream.fps, stream.track, stream.making)


def _usable_device(device: str | torch.device) -> torch.device:
    """Raises InvalidArgumentError for a device that this machine does not have."""
    try:
        torch.empty(0, device=torch.device(device)).cpu()  # from the device "meta" nothing comes back
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise InvalidArgumentError(f"device {device} cannot be used ({reason}): try cpu") from error
    return torch.device(device)


def check_options(seed: int = 0, temperature: float = 0.0, motion: str = "subtle", articulation: float = 1.0) -> None:
    """Raises InvalidArgumentError, before anything heavy is done, where a pipeline would not take these."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise InvalidArgumentError(f"seed is {seed!r}: give a whole number from 0")
    if not 0 <= _as_float(temperature) < math.inf:
        raise InvalidArgumentError(f"temperature is {temperature!r}: give a number from 0")
    if motion not in MOTIONS:
        raise InvalidArgumentError(f"motion is {motion!r}: use {' or '.join(map(repr, MOTIONS))}")
    least, most = ARTICULATIONS
    if not least <= _as_float(articulation) <= most:
        raise InvalidArgumentError(f"articulation is {articulation!r}: give a number from {least} to {most}")


def _as_float(value: object) -> float:
    """A number of Python's or NumPy's; NaN, which lies in no range, for anything else."""
    try:
        return float(value) if isinstance(value, int | float | np.integer | np.floating) else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        return math.nan


def _check_speech(speech: Speech) -> None:
    if not isinstance(speech, Speech):
        raise InvalidArgumentError(
            f"speech= is a {type(speech).__name__}: give what speak() or listen() returned, or "
            "Speech(track, audio, sampling_rate, language)"
        )
    _check_track(speech.track)
    check_audio(speech.audio, speech.sampling_rate, "the speech's audio")


def _check_track(track: PhonemeTrack) -> None:
    if not isinstance(track, PhonemeTrack):
        raise InvalidArgumentError(
            f"the track is a {type(track).__name__}: give PhonemeTrack([Phoneme(…), …], language)"
        )


PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=AvatarSyncPipeline,
    pt_model=AvatarSyncModel,
    default={"model": (str(bundled_weights()), "main")},
    type="multimodal",
)
