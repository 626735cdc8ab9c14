"""AvatarSync: a portrait and a text or a voice become a talking video.

Importing the package registers the task and the models: `transformers.pipeline("talking-head")`, and
`AutoConfig` and `AutoModel` on the whole model's folder as on every stage's, work from then on.
"""

import avatarsync.auto_classes  # noqa: F401
from avatarsync.configuration_avatarsync import (
    AvatarSyncConfig,
    FaceAlignerConfig,
    InterpolationConfig,
    KeyframeGeneratorConfig,
    VisualTokenizerConfig,
)
from avatarsync.errors import AvatarSyncError
from avatarsync.modeling_avatarsync import AvatarSyncModel
from avatarsync.modeling_face_aligner import FaceAlignerModel
from avatarsync.modeling_interpolation import InterpolationModel
from avatarsync.modeling_keyframes import KeyframeGeneratorModel
from avatarsync.modeling_visual_tokenizer import VisualTokenizerModel
from avatarsync.outputs import TalkingHeadVideo
from avatarsync.phonemes import Phoneme, PhonemeTrack, Speech, VisualMapping
from avatarsync.pipelines import AvatarSyncPipeline, FrameStream
from avatarsync.processing_avatarsync import AvatarSyncProcessor
from avatarsync.version import __version__

__all__ = [
    "AvatarSyncConfig",
    "AvatarSyncError",
    "AvatarSyncModel",
    "AvatarSyncPipeline",
    "AvatarSyncProcessor",
    "FaceAlignerConfig",
    "FaceAlignerModel",
    "FrameStream",
    "InterpolationConfig",
    "InterpolationModel",
    "KeyframeGeneratorConfig",
    "KeyframeGeneratorModel",
    "Phoneme",
    "PhonemeTrack",
    "Speech",
    "TalkingHeadVideo",
    "VisualMapping",
    "VisualTokenizerConfig",
    "VisualTokenizerModel",
    "__version__",
]
