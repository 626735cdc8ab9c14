"""A small network that hears which phoneme is said when, in any language and without a transcript.

The paper's Tokenization takes timed phonemes of a recording as given; where nobody has written down what is said, this
is where they come from. It names a broad IPA symbol every 10 ms, as well as lips need it: symbols that look alike may
be taken for each other. `training/train_phoneme_recognizer.py` trains it.

Shapes: T frames of 10 ms, C phonemes, H channels.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .phonemes.log_mel import NUM_BANDS
from .phonemes.visual_mapping import NUM_UNITS, VisualMapping

LABEL_SMOOTHING = 0.05  # where one phoneme ends and the next begins, nobody knows to 10 ms
LEAST_PROBABILITY = 1e-6


class PhonemeRecognizerConfig(PretrainedConfig):
    """Sizes of the recogniser, and what it names.

    Args:
        phonemes: C IPA symbols, "sil" first.
        log_priors: of each, the logarithm of how often it was said in training; C.
        hidden_size: H.
        dilations: of each block, how many frames away its neighbours are.

    Raises:
        ValueError: priors of another number of phonemes.
    """

    model_type = "avatarsync_phoneme_recognizer"

    def __init__(
        self,
        phonemes: tuple[str, ...] = ("sil",),
        log_priors: tuple[float, ...] | None = None,
        hidden_size: int = 160,
        dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 8),
        **kwargs,
    ):
        self.phonemes = tuple(phonemes)
        self.log_priors = tuple(log_priors) if log_priors is not None else (0.0,) * len(self.phonemes)
        if len(self.log_priors) != len(self.phonemes):
            raise ValueError(f"{len(self.log_priors)} log_priors of {len(self.phonemes)} phonemes: give one of each")
        self.hidden_size, self.dilations = hidden_size, tuple(dilations)
        super().__init__(**kwargs)

    @property
    def reach(self) -> int:
        """How many frames before and after a frame count for it."""
        return 1 + sum(self.dilations)


@dataclass
class PhonemeRecognizerOutput(ModelOutput):
    """What is heard.

    Args:
        loss: scalar: cross-entropy of the phonemes and of their visual units.
        logits `(B, T, C)`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class NeighbourBlock(nn.Module):
    """What a frame and two others at a distance say, added to it."""

    def __init__(self, size: int, distance: int):
        super().__init__()
        self.distance = distance
        self.norm = nn.LayerNorm(size)
        self.gather = nn.Linear(3 * size, size)
        self.out = nn.Linear(size, size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(B, T, H)` → `(B, T, H)`."""
        return hidden + self.out(functional.gelu(self.gather(_beside(self.norm(hidden), self.distance))))


class PhonemeRecognizerModel(PreTrainedModel):
    """Bands of a recording to phonemes, each frame for itself and the 0.4 s about it."""

    config_class = PhonemeRecognizerConfig
    main_input_name = "bands"

    def __init__(self, config: PhonemeRecognizerConfig):
        super().__init__(config)
        self.embed = nn.Linear(3 * NUM_BANDS, config.hidden_size)
        self.blocks = nn.ModuleList(NeighbourBlock(config.hidden_size, distance) for distance in config.dilations)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, len(config.phonemes))
        mapping = VisualMapping.default()
        self.units = [mapping.unit_id(symbol) for symbol in config.phonemes]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Linear layers begin as PyTorch begins them."""

    def forward(self, bands: torch.Tensor, labels: torch.Tensor | None = None) -> PhonemeRecognizerOutput:
        """Name the phoneme of every frame.

        Args:
            bands: `(B, T, 40)` as `phonemes.log_mel.normalized` returns them.
            labels: `(B, T)` true phonemes.
        """
        hidden = self.embed(_beside(bands, 1))
        for block in self.blocks:
            hidden = block(hidden)
        logits = self.head(self.norm(hidden)).float()
        return PhonemeRecognizerOutput(None if labels is None else self._loss(logits, labels), logits)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Which phoneme it is, and which of those that look alike, which is what lips need."""
        units = torch.tensor(self.units, device=logits.device)
        phonemes = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=LABEL_SMOOTHING)
        belongs = functional.one_hot(units, NUM_UNITS).to(logits.dtype)  # (C, 24)
        likely = (logits.softmax(-1) @ belongs).clamp_min(LEAST_PROBABILITY).log()
        return phonemes + functional.nll_loss(likely.flatten(0, 1), units[labels].flatten())


def _beside(hidden: torch.Tensor, distance: int) -> torch.Tensor:
    """Each frame of `(B, T, H)` between those before and after it: `(B, T, 3 H)`; zeros beyond the ends."""
    frames = hidden.shape[1]
    padded = functional.pad(hidden, (0, 0, distance, distance))
    return torch.cat([padded[:, :frames], hidden, padded[:, 2 * distance :]], -1)
