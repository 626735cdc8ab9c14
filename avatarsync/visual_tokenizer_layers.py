"""Layers of VisualTokenizerModel: its encoder, what reads expressions from codes, and the painter."""

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_avatarsync import VisualTokenizerConfig
from .smooth_step import smooth_step

SHADING_FADE = 0.2  # width of the rim of the painter's window in which shading fades out, of its side
MOST_SHADING, MOST_TINT = 0.25, 0.04  # of 2, the range of pixels: brightness, and each channel beside it


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(min(8, outputs // 4), outputs), nn.SiLU()
    )


class ResidualBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(convolution(width, width), nn.Conv2d(width, width, 3, 1, 1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.layers(hidden)


class Encoder(nn.Module):
    """Crop `(B, 3, S, S)` → code vectors `(B, K, D)` in [-1, 1], seen beside another crop of the same person.

    One picture does not tell a long chin from a dropped jaw: alone, the lips of unseen faces are found 0.85 % of the
    crop's side from where they are, of which 0.74 % are one shift of all of them.
    """

    def __init__(self, config: VisualTokenizerConfig):
        super().__init__()
        width = config.encoder_width
        layers = [convolution(3, width, 2)]
        size, stage = config.crop_size // 2, 0
        while size > config.grid_size:
            wider = min(width * 2, 8 * config.encoder_width)
            layers.append(convolution(width, wider, 2))
            if stage < 3:
                layers.append(ResidualBlock(wider))
            width, size, stage = wider, size // 2, stage + 1
        self.layers = nn.Sequential(*layers)
        # Each token also reads the whole face: where the lips are depends on the nose.
        self.context = nn.Linear(width * config.grid_size**2, width)
        self.comparison = nn.Linear(width * config.grid_size**2, width)
        self.head = nn.Linear(2 * width, config.code_bits)
        self.correction = nn.Sequential(nn.Linear(3 * width, width), nn.SiLU(), nn.Linear(width, config.code_bits))

    def forward(self, pixels: torch.Tensor, reference: torch.Tensor | None = None) -> torch.Tensor:
        """pixels, reference `(B, 3, S, S)`, one reference for all if it is a batch of one; None for pictures that are
        their own."""
        tokens = self.layers(pixels).flatten(2).transpose(1, 2)  # (B, K, C)
        difference = torch.zeros_like(tokens)
        if reference is not None:
            difference = tokens - self.layers(reference).flatten(2).transpose(1, 2)
        context = self.context(tokens.flatten(1)) + self.comparison(difference.flatten(1))
        context = F.silu(context)[:, None].expand_as(tokens)
        seen = torch.cat([tokens, context], -1)
        return torch.tanh(self.head(seen) + self.correction(torch.cat([seen, difference], -1)))


class ExpressionDecoder(nn.Module):
    """Codes `(B, K, D)` → expression `(B, 468, 2)` on the neutral face, through a low-rank basis."""

    def __init__(self, config: VisualTokenizerConfig):
        super().__init__()
        width = config.motion_width
        self.layers = nn.Sequential(
            nn.Linear(config.num_tokens * config.code_bits, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, config.motion_rank),
        )
        self.basis = nn.Linear(config.motion_rank, config.num_landmarks * 2)

    def forward(self, codes: torch.Tensor, neutral: torch.Tensor) -> torch.Tensor:
        displacement = self.basis(self.layers(codes.flatten(1).float()))
        return neutral + 0.05 * displacement.view(-1, *neutral.shape)


class Painter(nn.Module):
    """Draws in a window about the mouth: its interior, and what light and stretching do to the lips and the skin about
    them. A small U-Net, modulated by the codes."""

    def __init__(self, config: VisualTokenizerConfig):
        super().__init__()
        width = config.painter_width
        self.enter = convolution(8, width)
        self.down1 = nn.Sequential(convolution(width, 2 * width, 2), ResidualBlock(2 * width))
        self.down2 = nn.Sequential(convolution(2 * width, 4 * width, 2), ResidualBlock(4 * width))
        self.down3 = nn.Sequential(convolution(4 * width, 6 * width, 2), ResidualBlock(6 * width))
        self.modulation = nn.Linear(config.num_tokens * config.code_bits, 12 * width)
        self.up3 = nn.Sequential(convolution(10 * width, 4 * width), ResidualBlock(4 * width))
        self.up2 = convolution(6 * width, 2 * width)
        self.up1 = convolution(3 * width, width)
        self.register_buffer("shading_fade", fading_rim(config.painter_size), persistent=False)
        self.head = nn.Conv2d(width, 7, 3, 1, 1)

    def forward(self, window: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """window `(B, 8, s, s)`: moved and unmoved reference, target's and reference's mouth interior. Returns the
        paint's difference to the moved reference `(B, 3, s, s)`, its opacity `(B, 1, s, s)` and shading `(B, 3, s, s)`
        for all of the window."""
        fine = self.enter(window)
        middle = self.down1(fine)
        coarse = self.down2(middle)
        bottom = self.down3(coarse)
        scale, shift = self.modulation(codes.flatten(1))[:, :, None, None].chunk(2, 1)
        bottom = bottom * (1 + scale) + shift
        coarse = self.up3(torch.cat([F.interpolate(bottom, scale_factor=2), coarse], 1))
        middle = self.up2(torch.cat([F.interpolate(coarse, scale_factor=2), middle], 1))
        fine = self.up1(torch.cat([F.interpolate(middle, scale_factor=2), fine], 1))
        out = self.head(fine)
        # The opacity starts near one: a path that starts closed never learns.
        # Shading is of places: a cast over all of the window would be a patch of another colour.
        shading = out[:, 4:] - out[:, 4:].mean((2, 3), keepdim=True)
        grey = shading.mean(1, keepdim=True)
        # Light changes brightness far more than colour. Without bounds, a picture tinted like none before got a patch.
        shading = _bounded(grey, MOST_SHADING) + _bounded(shading - grey, MOST_TINT)
        return out[:, :3], torch.sigmoid(out[:, 3:4] + 3.0), shading * self.shading_fade


def _bounded(values: torch.Tensor, most: float) -> torch.Tensor:
    return most * torch.tanh(values / most)


def fading_rim(side: int) -> torch.Tensor:
    """`(side, side)`: 1 in the middle of a window, 0 at its edges."""
    cells = (torch.arange(side) + 0.5) / side
    share = smooth_step(torch.minimum(cells, 1 - cells) / SHADING_FADE)
    return share[:, None] * share
