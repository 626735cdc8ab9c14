"""AvatarSyncModel: the stages of the paper composed, one config and one checkpoint.

units, durations ─► KeyframeGeneratorModel ─► keyframe codes ─► InterpolationModel ─► soft codes at any time
portrait ─► FaceAlignerModel ─► crop ─► VisualTokenizerModel.prepare_reference ─► decode at those codes

Shapes: T_s keyframes, T frames, K tokens a frame, D channels a code.
"""

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from .adapters import AdapterModel
from .configuration_avatarsync import AvatarSyncConfig
from .errors import ModelLoadError
from .expected_keyframes import expected_keyframes, round_codes
from .known_person import KnownPerson
from .modeling_face_aligner import FaceAlignerModel
from .modeling_interpolation import InterpolationModel
from .modeling_keyframes import KeyframeGeneratorModel
from .modeling_visual_tokenizer import DecoderOutput, Reference, VisualTokenizerModel
from .schedule import REST_DURATION, locate

FRAMES_AT_ONCE = 64  # of interpolation: what keeps its memory flat
KEYFRAMES_AT_ONCE = 64
FIRST_KEYFRAMES = 8  # and then twice as many each time: the first frame is waited for, but small blocks take longer
ENCODER_SAY = 0.5  # of what expression a reference has; the rest is silence
REST_CONTEXT = 3  # silent units on either side of the one that counts as the face at rest


class AvatarSyncModel(AdapterModel, PreTrainedModel):
    """Face aligner, visual tokenizer, keyframe generator and interpolator in one checkpoint."""

    config_class = AvatarSyncConfig
    base_model_prefix = "avatarsync"
    main_input_name = "unit_ids"
    supports_gradient_checkpointing = True

    def __init__(self, config: AvatarSyncConfig):
        super().__init__(config)
        self.face_aligner = FaceAlignerModel(config.face_aligner_config)
        self.visual_tokenizer = VisualTokenizerModel(config.visual_tokenizer_config)
        self.keyframe_generator = KeyframeGeneratorModel(config.keyframe_generator_config)
        self.interpolation = InterpolationModel(config.interpolation_config)
        self.person = None
        if config.known_person is not None:
            code_shape = self._code_shape() if config.known_person == "reference" else None
            self.person = KnownPerson.empty(config.visual_tokenizer_config.num_landmarks, code_shape)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args,
        output_loading_info: bool = False,
        **kwargs,
    ) -> "AvatarSyncModel | tuple[AvatarSyncModel, dict]":
        """transformers' `from_pretrained`, where all weights are there: those that are missing would be random.

        Raises:
            ModelLoadError: weights are missing or of another shape, or it is a model of another type.
        """
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        missing = sorted(report["missing_keys"]) + sorted(name for name, *_ in report["mismatched_keys"])
        if missing:
            raise ModelLoadError(
                f"{pretrained_model_name_or_path} lacks {len(missing)} of the model's weights, such as {missing[0]}: "
                "copy or download it again, or save it anew with save_pretrained"
            )
        return (model, report) if output_loading_info else model

    def _init_weights(self, module: nn.Module) -> None:
        # Every stage initialises its own layers; nothing stands between them.
        for stage in (self.face_aligner, self.visual_tokenizer, self.keyframe_generator, self.interpolation):
            if any(module is child for child in stage.modules()):
                stage._init_weights(module)
                return

    @torch.no_grad()
    def generate_keyframes(
        self,
        unit_ids: torch.Tensor,
        durations: torch.Tensor,
        reference: Reference,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Iterator[torch.Tensor]:
        """Keyframe codes `(n, K, D)`, block after block, together `(T_s, K, D)`.

        Args:
            unit_ids, durations: `(T_s,)` visual units and their seconds.
            reference: one reference, `(1, …)`.
            temperature: 0 takes the mean of each token's distribution (soft codes), which on held-out clips changes
                the mouth's width 1.1 times as much as people do; the likeliest codes do so 1.4 times (r 0.72 instead
                of 0.64). But the mean of shut and open lips is a little open: where the likeliest codes shut them,
                these are taken. Above 0, codes are sampled.
            generator: of the noise.

        A mode of unbounded reach yields all keyframes at once.
        """
        inputs = self._generator_inputs(unit_ids, durations, reference)
        model = self.keyframe_generator
        bounded = model.reach is not None and model.config.frame_context == "none"
        blocks = {"block_size": KEYFRAMES_AT_ONCE, "first_block_size": FIRST_KEYFRAMES} if bounded else {}
        if temperature > 0:
            sampling = {"temperature": temperature, "generator": generator}
            if bounded:
                sampled = model.generate_blocks(*inputs, **blocks, **sampling)
            else:
                sampled = [model.generate(*inputs, **sampling)]
            for block in sampled:
                yield self.visual_tokenizer.quantizer.ids_to_codes(block.codes[0]).to(self.dtype)
            return
        for encoded in model.encode_blocks(*inputs, **blocks) if bounded else [model.encode(*inputs)]:
            yield expected_keyframes(model, self.visual_tokenizer, encoded)

    def _generator_inputs(self, unit_ids: torch.Tensor, durations: torch.Tensor, reference: Reference) -> tuple:
        """Units, durations, condition and reference tokens of one sequence, as the keyframe generator takes them."""
        # Eyes are opened and closed by the renderer: keyframes are asked for with open eyes.
        condition = durations.new_ones(1, len(unit_ids), self.keyframe_generator.config.condition_size)
        return unit_ids[None], durations[None], condition, self.visual_tokenizer.quantize(reference.codes).ids

    @torch.no_grad()
    def at_rest(self, reference: Reference, silent_unit: int) -> Reference:
        """The reference, with an expression between what the model says in silence and what the encoder sees.

        Speech moves a portrait by how it differs from the portrait's own expression. Were a portrait taken to be at
        rest, it would keep in silence whatever lips it has, and talk about a half-open mouth as if it were closed;
        were the encoder trusted, its errors on a face that it has never seen would pull at lips that rest. On
        training clips the mouth's PSNR over copying was +1.6, +1.8, +1.9, +1.7 and +1.4 dB with 0, 1/4, 1/2, 3/4 and
        all of the encoder's say (held-out ones: +1.5, +2.1, +2.6, +2.7, +2.5); unseen faces lose 0.2 dB a quarter.

        Args:
            reference: one reference, `(1, …)`.
            silent_unit: id of the unit of silence.
        """
        unit_ids = torch.full((2 * REST_CONTEXT + 1,), silent_unit, device=self.device)
        durations = torch.full(unit_ids.shape, REST_DURATION, device=self.device, dtype=torch.float32)
        model, middle = self.keyframe_generator, torch.tensor([REST_CONTEXT], device=self.device)
        encoded = model.encode(*self._generator_inputs(unit_ids, durations, reference))
        if model.config.frame_context == "none":
            codes = expected_keyframes(model, self.visual_tokenizer, encoded.of_frames(middle))
        else:
            codes = expected_keyframes(model, self.visual_tokenizer, encoded)[middle]
        silent = self.visual_tokenizer.expression(codes)
        return replace(reference, expression=silent + ENCODER_SAY * (reference.expression - silent))

    @torch.no_grad()
    def generate_codes(
        self,
        unit_ids: torch.Tensor,
        durations: torch.Tensor,
        keyframe_times: np.ndarray,
        frame_times: np.ndarray,
        reference: Reference,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Iterator[torch.Tensor]:
        """Soft codes `(n, K, D)` of successive frames, together `(T, K, D)`, as soon as their keyframes exist.

        Args:
            keyframe_times: `(T_s,)` seconds, when each unit's keyframe lies.
            frame_times: `(T,)` seconds, increasing.
        """
        left, right, relative, interval = locate(frame_times, keyframe_times)
        keyframes = torch.empty(len(unit_ids), *self._code_shape(), device=self.device, dtype=self.dtype)
        ready = done = 0
        for block in self.generate_keyframes(unit_ids, durations, reference, temperature, generator):
            keyframes[ready : ready + len(block)] = block
            ready += len(block)
            while done < len(right):
                stop = min(done + FRAMES_AT_ONCE, int(np.searchsorted(right, ready)))
                if stop <= done:
                    break
                now = slice(done, stop)
                start = torch.from_numpy(left[now]).to(self.device)
                end = torch.from_numpy(right[now]).to(self.device)
                times = torch.from_numpy(relative[now]).to(self.device, torch.float32)[:, None]
                gaps = torch.from_numpy(interval[now]).to(self.device, torch.float32)
                frames = self.interpolation(
                    keyframes[start], keyframes[end], unit_ids[start], unit_ids[end], gaps, times
                )
                yield round_codes(frames.codes[:, 0])
                done = stop

    def _code_shape(self) -> tuple[int, int]:
        config = self.visual_tokenizer.config
        return config.num_tokens, config.code_bits

    def forward(
        self,
        reference_pixel_values: torch.Tensor,
        reference_landmarks: torch.Tensor,
        unit_ids: torch.Tensor,
        durations: torch.Tensor,
        keyframe_times: np.ndarray,
        frame_times: np.ndarray,
    ) -> DecoderOutput:
        """All frames of one clip in the crop's resolution: everything but the paste-back (`rendering.FaceRenderer`).

        Args:
            reference_pixel_values, reference_landmarks: `(1, 3, S, S)` in [-1, 1] and `(1, 468, 2)` in fractions of S.
            unit_ids, durations: `(T_s,)`.
            keyframe_times, frame_times: `(T_s,)` and `(T,)` seconds.
        """
        reference = self.visual_tokenizer.prepare_reference(reference_pixel_values, reference_landmarks)
        codes = torch.cat(list(self.generate_codes(unit_ids, durations, keyframe_times, frame_times, reference)))
        return self.visual_tokenizer.decode(codes, reference.expand(len(codes)))
