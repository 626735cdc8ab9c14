"""A small expert for whether lips and sound belong together: SyncNet's two towers, forty times smaller.

It stands in for SyncNet (Sync-C and Sync-D, section Evaluation Metrics) where its weights are not at hand, on a scale
of its own. `training/train_sync_expert.py` trains it.

Shapes: windows of five frames at 25 a second, B of them; T frames of a clip have T - 4 windows.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .speech_cepstra import NUM_CEPSTRA

FRAMES, CEPSTRA_PER_FRAME = 5, 4
CEPSTRA = FRAMES * CEPSTRA_PER_FRAME  # in a window
GROUPS = 8
MAX_SCALE = 50.0  # of cosines into logits


class SyncExpertConfig(PretrainedConfig):
    """Sizes of the expert.

    Args:
        side: pixels of a mouth crop.
        mouth_widths: channels of the convolutions that halve it, four of them.
        sound_widths: channels of the convolutions over time, three of them.
        embedding_size: D.
        cepstral_mean, cepstral_deviation: of each of the 13 cepstra, in the training data.
        max_offset: frames by which lips and sound are told apart in training.
        accuracy: share of held-out clips whose true offset is told within one frame; None before it was measured.
    """

    model_type = "avatarsync_sync_expert"

    def __init__(
        self,
        side: int = 48,
        mouth_widths: tuple[int, ...] = (24, 48, 64, 96),
        sound_widths: tuple[int, ...] = (64, 96, 128),
        embedding_size: int = 128,
        cepstral_mean: tuple[float, ...] = (0.0,) * NUM_CEPSTRA,
        cepstral_deviation: tuple[float, ...] = (1.0,) * NUM_CEPSTRA,
        max_offset: int = 15,
        accuracy: float | None = None,
        **kwargs,
    ):
        self.side, self.embedding_size, self.max_offset = side, embedding_size, max_offset
        self.mouth_widths, self.sound_widths = tuple(mouth_widths), tuple(sound_widths)
        self.cepstral_mean, self.cepstral_deviation = tuple(cepstral_mean), tuple(cepstral_deviation)
        self.accuracy = accuracy
        super().__init__(**kwargs)


@dataclass
class SyncExpertOutput(ModelOutput):
    """How near lips and sound are.

    Args:
        loss: scalar: cross-entropy of finding a window's own sound among those up to `max_offset` frames away, and
            the other way round.
        cosines `(B, N, N)`: of mouth window i and sound window j.
    """

    loss: torch.Tensor | None = None
    cosines: torch.Tensor | None = None


class SyncExpertModel(PreTrainedModel):
    """Mouths and sounds to unit vectors `(B, D)`, near where they belong together."""

    config_class = SyncExpertConfig
    main_input_name = "mouths"

    def __init__(self, config: SyncExpertConfig):
        super().__init__(config)
        layers, width, side = [], FRAMES, config.side
        for wider in config.mouth_widths:
            layers += [nn.Conv2d(width, wider, 3, 2, 1), nn.GroupNorm(GROUPS, wider), nn.ReLU()]
            width, side = wider, (side + 1) // 2
        self.mouth_tower = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side**2, config.embedding_size))
        layers, width, length = [], NUM_CEPSTRA, CEPSTRA
        for index, wider in enumerate(config.sound_widths):
            stride = 2 if index else 1
            layers += [nn.Conv1d(width, wider, 3, stride, 1), nn.GroupNorm(GROUPS, wider), nn.ReLU()]
            width, length = wider, -(-length // stride)
        self.sound_tower = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * length, config.embedding_size))
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Convolutions and linear layers begin as PyTorch begins them."""

    def embed_mouth(self, mouths: torch.Tensor) -> torch.Tensor:
        """Grey mouths `(B, 5, side, side)` in [-1, 1] → `(B, D)` of length one."""
        return functional.normalize(self.mouth_tower(mouths), dim=-1)

    def embed_sound(self, cepstra: torch.Tensor) -> torch.Tensor:
        """Cepstra `(B, 13, 20)` → `(B, D)` of length one."""
        mean, deviation = (
            cepstra.new_tensor(values)[:, None]
            for values in (self.config.cepstral_mean, self.config.cepstral_deviation)
        )
        return functional.normalize(self.sound_tower((cepstra - mean) / deviation), dim=-1)

    def forward(self, mouths: torch.Tensor, cepstra: torch.Tensor) -> SyncExpertOutput:
        """Clips whose sound belongs to them.

        Args:
            mouths: `(B, T, side, side)` in [-1, 1], at 25 frames a second.
            cepstra: `(B, 4 T, 13)` or some more, from when the first frame is shown.
        """
        batch, frames = mouths.shape[:2]
        windows = mouths.unfold(1, FRAMES, 1).permute(0, 1, 4, 2, 3)  # (B, N, 5, side, side)
        count = frames - FRAMES + 1
        sounds = cepstra.unfold(1, CEPSTRA, CEPSTRA_PER_FRAME)[:, :count]  # (B, N, 13, 20)
        seen = self.embed_mouth(windows.reshape(batch * count, *windows.shape[2:])).view(batch, count, -1)
        heard = self.embed_sound(sounds.reshape(batch * count, *sounds.shape[2:])).view(batch, count, -1)
        cosines = seen @ heard.mT
        place = torch.arange(count, device=mouths.device)
        far = (place[:, None] - place).abs() > self.config.max_offset
        logits = (cosines * self.log_scale.exp().clamp(max=MAX_SCALE)).masked_fill(far, float("-inf"))
        target = place.expand(batch, -1).reshape(-1)
        losses = [functional.cross_entropy(one.reshape(-1, count), target) for one in (logits, logits.mT)]
        return SyncExpertOutput(loss=sum(losses) / 2, cosines=cosines)
