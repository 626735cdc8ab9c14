"""Configurations of the AvatarSync models: one per stage, and the composite that holds them.

`AvatarSyncConfig()` is the `embedded` preset: the sizes of the bundled weights, meant for CPUs. Their attention
window is wider, 3 units to both sides.
`AvatarSyncConfig.full()` is the `full` preset: more tokens and wider models, meant for GPUs.
"""

import os
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .errors import ModelLoadError

AttentionMode = Literal["full", "causal", "limited_history", "one_to_one", "window"]


@strict
class FaceAlignerConfig(PreTrainedConfig):
    """Face detector, landmark regressor, and a second regressor that looks at the mouth alone.

    Args:
        detector_size: side in pixels of the letterboxed picture that the detector sees.
        detector_width: channels of the detector's first stage; later stages double.
        landmark_size: side in pixels of the crop that the landmark head sees.
        landmark_width: channels of the landmark trunk's first stage.
        lip_size: side in pixels of the crop about the mouth that the lip head sees.
        lip_width: channels of the lip head's first stage; 0: no lip head.
        num_landmarks: points of the face mesh (MediaPipe's first 468).
        score_threshold: detections below this probability are dropped.
    """

    model_type = "avatarsync_face_aligner"
    base_config_key = "face_aligner_config"

    detector_size: int = 192
    detector_width: int = 16
    landmark_size: int = 128
    landmark_width: int = 24
    lip_size: int = 96
    lip_width: int = 16
    num_landmarks: int = 468
    score_threshold: float = 0.5


@strict
class VisualTokenizerConfig(PreTrainedConfig):
    """Visual tokenizer: crop → K codes, and codes + reference → crop.

    Args:
        crop_size: side S of the crop in pixels.
        grid_size: side of the token grid; K = grid_size².
        quantizer: lookup-free ("lfq") or learned-codebook ("vq") quantisation.
        code_bits: channels of an LFQ code (each ±1); the codebook has 2**code_bits entries for both quantizers.
        encoder_width: channels of the encoder's first stage; later stages double.
        motion_width: hidden size of the motion head.
        motion_rank: size of the low-rank basis in which landmark displacements are predicted.
        painter_size: side in pixels of the mouth window that the painter draws.
        painter_width: channels of the painter's first stage.
        num_landmarks: points of the face mesh.
        entropy_weight, commitment_weight: weights of the quantizer's own losses.
    """

    model_type = "avatarsync_visual_tokenizer"
    base_config_key = "visual_tokenizer_config"

    crop_size: int = 128
    grid_size: int = 4
    quantizer: Literal["lfq", "vq"] = "lfq"
    code_bits: int = 10
    encoder_width: int = 32
    motion_width: int = 512
    motion_rank: int = 48
    painter_size: int = 64
    painter_width: int = 24
    num_landmarks: int = 468
    entropy_weight: float = 0.02
    commitment_weight: float = 0.1

    @property
    def num_tokens(self) -> int:
        """K, the tokens of one frame."""
        return self.grid_size**2

    @property
    def codebook_size(self) -> int:
        """V, the size of the visual vocabulary."""
        return 2**self.code_bits


@strict
class KeyframeGeneratorConfig(PreTrainedConfig):
    """Facial Keyframe Generation (FKG): autoregressive Transformer under the Text–Frame Causal Attention Mask.

    Args:
        num_units: visual units of the Phoneme-to-Visual Mapping.
        codebook_size: size V of the visual vocabulary.
        num_tokens: tokens K of one frame.
        code_factors: sub-codes that a code is split into for prediction; V must be a perfect power of it.
        hidden_size, num_layers, num_heads, mlp_ratio, dropout: the Transformer's sizes.
        attention_mode: which units frame i sees: "full" all, "causal" 1…i, "limited_history" i-1 and i,
            "one_to_one" i alone (Appendix A.4), "window" i-past_units … i+future_units.
        past_units, future_units: the reach of "window".
        frame_context: whether a frame also reads the tokens of the frame before it ("previous") or none ("none").
        num_duration_bins: bins, evenly spaced in log time, of the duration token.
        min_duration, max_duration: centres of the first and the last bin, in seconds.
        condition_size: values of the condition token (eye openness).
        condition_dropout: how often training hides the condition token.
    """

    model_type = "avatarsync_keyframe_generator"
    base_config_key = "keyframe_generator_config"

    num_units: int = 24
    codebook_size: int = 1024
    num_tokens: int = 16
    code_factors: int = 1
    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 6
    mlp_ratio: float = 4.0
    dropout: float = 0.1
    attention_mode: AttentionMode = "window"
    past_units: int = 2
    future_units: int = 2
    frame_context: Literal["none", "previous"] = "none"
    num_duration_bins: int = 32
    min_duration: float = 0.02
    max_duration: float = 2.0
    condition_size: int = 1
    condition_dropout: float = 0.2
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(f"hidden_size {self.hidden_size} is not an even multiple of num_heads {self.num_heads}")
        if self.code_base**self.code_factors != self.codebook_size:
            raise ValueError(f"codebook_size {self.codebook_size} is no perfect power of {self.code_factors} factors")
        if self.past_units < 0 or self.future_units < 0:
            raise ValueError("past_units and future_units count units: give 0 or more")
        if not 0 < self.min_duration < self.max_duration or self.num_duration_bins < 2:
            raise ValueError("give 0 < min_duration < max_duration and at least 2 num_duration_bins")

    @property
    def code_base(self) -> int:
        """V_f, the values of one of a code's `code_factors` sub-codes."""
        return round(self.codebook_size ** (1 / self.code_factors))


@strict
class InterpolationConfig(PreTrainedConfig):
    """Timestamp-aware interpolation between the codes of adjacent keyframes by selective state-space blocks.

    Args:
        num_units: visual units of the Phoneme-to-Visual Mapping.
        shut_units: the ones that lips are shut in, silence and /m b p/.
        code_size: channels D of one code.
        grid_size: side of the token grid; K = grid_size².
        hidden_size: model width.
        num_layers: state-space blocks, each scanning in four directions.
        expansion: channels inside a state-space layer, in multiples of hidden_size.
        mlp_ratio: width of a block's MLP, in multiples of hidden_size.
        state_size: state N of the selective state-space model.
        head_size: channels of one state-space head.
        chunk_size: length of the blocks of the chunked scan.
    """

    model_type = "avatarsync_interpolation"
    base_config_key = "interpolation_config"

    num_units: int = 24
    shut_units: tuple[int, ...] | list[int] = (0, 1)
    code_size: int = 10
    grid_size: int = 4
    hidden_size: int = 128
    num_layers: int = 2
    expansion: int = 2
    mlp_ratio: float = 2.0
    state_size: int = 16
    head_size: int = 64
    chunk_size: int = 32
    initializer_range: float = 0.02

    @property
    def num_tokens(self) -> int:
        """K, the tokens of one frame."""
        return self.grid_size**2

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.expansion * self.hidden_size % self.head_size:
            raise ValueError(
                f"head_size {self.head_size} does not divide expansion · hidden_size = "
                f"{self.expansion * self.hidden_size}; choose one that does"
            )


@strict
class AvatarSyncConfig(PreTrainedConfig):
    """The composite: one sub-configuration per stage, and how faces are cropped.

    Args:
        face_aligner_config, visual_tokenizer_config, keyframe_generator_config, interpolation_config: the stages;
            None takes the embedded preset's.
        crop_strategy: "pose_driven" (default) or "face_centric" (Appendix A.3).
        known_person: None, or that an adapter of one person was merged into the weights: their painter knows that
            person's teeth, they hold the resting face, and the keyframe generator is told the codes of the "portrait",
            or of a "reference" among the weights.
    """

    model_type = "avatarsync"
    sub_configs = {
        "face_aligner_config": FaceAlignerConfig,
        "visual_tokenizer_config": VisualTokenizerConfig,
        "keyframe_generator_config": KeyframeGeneratorConfig,
        "interpolation_config": InterpolationConfig,
    }

    face_aligner_config: dict | PreTrainedConfig | None = None
    visual_tokenizer_config: dict | PreTrainedConfig | None = None
    keyframe_generator_config: dict | PreTrainedConfig | None = None
    interpolation_config: dict | PreTrainedConfig | None = None
    crop_strategy: Literal["pose_driven", "face_centric"] = "pose_driven"
    known_person: Literal["portrait", "reference"] | None = None

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """transformers' own, of a whole model: it would make of any other, a stage's too, one with random weights.

        Raises:
            ModelLoadError: a model of another type.
        """
        config, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if config.get("model_type") != cls.model_type:
            raise ModelLoadError(
                f"{pretrained_model_name_or_path} holds a model of type {config.get('model_type')!r}, not a whole "
                f"{cls.model_type}: give a folder or Hub id that AvatarSyncPipeline.save_pretrained wrote"
            )
        return config, unused

    def __post_init__(self, **kwargs):
        for name, config_class in self.sub_configs.items():
            value = getattr(self, name)
            if value is None:
                setattr(self, name, config_class())
            elif isinstance(value, dict):
                setattr(self, name, config_class(**value))
        super().__post_init__(**kwargs)
        self._check_stages_agree()

    def _check_stages_agree(self) -> None:
        tokenizer, keyframes = self.visual_tokenizer_config, self.keyframe_generator_config
        interpolation, aligner = self.interpolation_config, self.face_aligner_config
        for what, one, other in (
            ("codebook_size", tokenizer.codebook_size, keyframes.codebook_size),
            ("num_tokens", tokenizer.num_tokens, keyframes.num_tokens),
            ("grid_size", tokenizer.grid_size, interpolation.grid_size),
            ("code_size", tokenizer.code_bits, interpolation.code_size),
            ("num_units", keyframes.num_units, interpolation.num_units),
            ("num_landmarks", tokenizer.num_landmarks, aligner.num_landmarks),
        ):
            if one != other:
                raise ValueError(f"the stages disagree on {what}: {one} and {other}; give every stage the same value")

    @classmethod
    def embedded(cls) -> "AvatarSyncConfig":
        """The sizes of the bundled weights: S=128, K=16, V=1024, under 12 M parameters."""
        return cls()

    @classmethod
    def full(cls) -> "AvatarSyncConfig":
        """For GPUs: S=256, K=64, 18-bit codes predicted as three factors of 64 (as Open-MAGVIT2 factorises)."""
        return cls(
            face_aligner_config=FaceAlignerConfig(),
            visual_tokenizer_config=VisualTokenizerConfig(
                crop_size=256,
                grid_size=8,
                code_bits=18,
                encoder_width=64,
                motion_width=1024,
                motion_rank=96,
                painter_size=128,
                painter_width=48,
            ),
            keyframe_generator_config=KeyframeGeneratorConfig(
                codebook_size=2**18, num_tokens=64, code_factors=3, hidden_size=512, num_layers=12, num_heads=8
            ),
            interpolation_config=InterpolationConfig(
                code_size=18, grid_size=8, hidden_size=384, num_layers=6, state_size=64, head_size=64
            ),
        )


__all__ = [
    "AvatarSyncConfig",
    "FaceAlignerConfig",
    "InterpolationConfig",
    "KeyframeGeneratorConfig",
    "VisualTokenizerConfig",
]
