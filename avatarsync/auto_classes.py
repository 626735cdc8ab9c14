"""What `AutoConfig` and `AutoModel` know: the whole model, each of its stages, and the two networks beside it."""

from transformers import AutoConfig, AutoModel

from .modeling_avatarsync import AvatarSyncModel
from .modeling_face_aligner import FaceAlignerModel
from .modeling_interpolation import InterpolationModel
from .modeling_keyframes import KeyframeGeneratorModel
from .modeling_phoneme_recognizer import PhonemeRecognizerModel
from .modeling_sync_expert import SyncExpertModel
from .modeling_visual_tokenizer import VisualTokenizerModel

for model_class in (
    AvatarSyncModel,
    FaceAlignerModel,
    VisualTokenizerModel,
    KeyframeGeneratorModel,
    InterpolationModel,
    PhonemeRecognizerModel,
    SyncExpertModel,
):
    AutoConfig.register(model_class.config_class.model_type, model_class.config_class)
    AutoModel.register(model_class.config_class, model_class)
