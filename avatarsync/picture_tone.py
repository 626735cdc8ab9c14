"""Whether a picture has colours: what is drawn into a black-and-white or sepia one takes its tone.

Mouths are drawn and painted with the red of flesh, and lips are parted by a red line. In a picture without colours
that is a mouth cut out of another one.
"""

from dataclasses import dataclass

import torch

from .smooth_step import smooth_step

# How far colours differ from one tint, on the mean and of the mean light: up to the first in a picture without colours
# (its compression makes some), from the second on in one with. Of 613 official portraits one is below it (0.018).
COLOURLESS, COLOURED = 0.005, 0.02


@dataclass
class PictureTone:
    """The tone of one picture.

    Attributes:
        tint: `(3,)`, its mean colour over its mean light.
        colour: 0 for a picture of that tint alone, 1 for one with colours.
    """

    tint: torch.Tensor
    colour: float

    @classmethod
    def of(cls, picture: torch.Tensor) -> "PictureTone":
        """Of a picture `(3, H, W)` whose black is 0."""
        mean = picture.mean((1, 2))
        tint = mean / mean.mean().clamp_min(1e-6)
        differences = (picture - picture.mean(0) * tint[:, None, None]).abs().mean() / mean.mean().clamp_min(1e-6)
        return cls(tint, float(smooth_step((differences - COLOURLESS) / (COLOURED - COLOURLESS))))

    def toned(self, colours: torch.Tensor) -> torch.Tensor:
        """Colours `(B, 3, h, w)`, whose black is 0, or what is added to some, as this picture has them: as light as
        they are."""
        if self.colour == 1:
            return colours
        return torch.lerp(colours.mean(1, keepdim=True) * self.tint[:, None, None], colours, self.colour)
