"""What colour teeth have in a portrait's light.

That of the teeth that it shows, or, where it hides them, that which teeth usually have beside skin of its colour:
drawn teeth take it (`mouth_interior.py`). The painter learned most of what is inside a mouth from one man's teeth and
now and then paints them greenish: they may be no greener than that.
"""

import torch

from .face_mesh import LIP_RINGS, LOWER_LIP_POSITIONS

# Cheeks and chin sides: skin whose colour tells how a face is lit.
SKIN_LANDMARKS = (50, 280, 205, 425, 151)
# The middle of the lower lip, between its edges.
LIP_LANDMARKS = tuple(ring[i] for ring in LIP_RINGS[1:-1] for i in LOWER_LIP_POSITIONS[2:-2])
# Green over red of the teeth of 909 official portraits: that of their skin to this power, with a standard deviation of
# a factor of 1.09.
SKIN_POWER = 0.45
# Of 806 of them: how light teeth are is how light skin is, to this power, times so much (give or take a factor of
# 1.18); what red, green and blue are over red is what they are over red in skin, to these powers.
TEETH_LIGHT, LIGHT_POWER, TINT_POWERS = 0.89, 0.43, (0.0, 0.38, 0.44)
OWN_TOLERANCE, SKIN_TOLERANCE = 1.02, 1.05
# What is so bright beside a face's own teeth is a tooth, what is darker than the first is none; teeth are at least so
# bright beside typical ones. From so many pixels on their colour is known.
DARK_TEETH, BRIGHT_TEETH, LEAST_LIGHT, KNOWN_PIXELS = 0.6, 0.8, 0.6, 60
# Green over red beside that of typical teeth: from the first on something may be a tooth, from the second on it is.
RED_FLESH, PALE_TEETH = 0.78, 0.88
# Blue over red, beside that of teeth, is at least green over red, likewise, to this power, times so much.
LEAST_BLUE, BLUE_POWER = 0.97, 1.7
SHADED_TEETH = 0.3  # what is darker beside teeth is none that a painter put in the shade
SEEN_PIXELS = 12  # bright pixels of a mouth from which on its own teeth count as seen

# What light there is in a mouth has been on flesh before: where little is left, it is red. Of light x, these powers of
# it are left in red, green and blue. Grey, teeth in the shade look like bad ones.
SHADE_POWERS = (0.85, 1.1, 1.15)


def skin_colour(image: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
    """Mean skin colour `(B, 3)` of pictures `(B, 3, H, H)` at landmarks `(B, 468, 2)` in pixels."""
    return _mean_colour(image, landmarks[:, list(SKIN_LANDMARKS)])


def lip_colour(image: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
    """Mean colour `(B, 3)` of the lower lip, likewise."""
    return _mean_colour(image, landmarks[:, list(LIP_LANDMARKS)])


def _mean_colour(image: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Mean `(B, 3)` of pictures `(B, 3, H, H)` at places `(B, N, 2)` in pixels."""
    places = places.round().long().clamp(0, image.shape[-1] - 1)
    batch = torch.arange(len(image), device=image.device)[:, None]
    return image[batch, :, places[..., 1], places[..., 0]].mean(1)


@torch.no_grad()
def typical_teeth(image: torch.Tensor, landmarks: torch.Tensor, white: float) -> torch.Tensor:
    """Colour `(B, 3)` that well lit teeth have beside skin like that of faces `(B, 3, H, H)`, black is 0."""
    skin = (skin_colour(image, landmarks) / white).clamp(1e-2, 1)
    tint = (skin / skin[:, :1]) ** skin.new_tensor(TINT_POWERS)
    level = TEETH_LIGHT * skin.mean(1, keepdim=True) ** LIGHT_POWER
    return white * level * tint / tint.mean(1, keepdim=True)


@torch.no_grad()
def seen_teeth(image: torch.Tensor, mouth: torch.Tensor, typical: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where faces show their teeth, `(B, 1, H, H)` from 0 to 1, and of what colour teeth `(B, 3)` are.

    Args:
        image: `(B, 3, H, H)`, black is 0.
        mouth: `(B, 1, H, H)`, 1 well inside the face's own inner lips.
        typical: `(B, 3)`, see `typical_teeth`: of this colour are teeth that are hidden, and what is much darker is
            none.
    """
    grey, bright = image.mean(1, keepdim=True), bright_part(image, mouth)
    level = (grey * bright).sum((2, 3), keepdim=True) / bright.sum((2, 3), keepdim=True).clamp_min(1e-3)
    level = torch.maximum(level, LEAST_LIGHT * typical.mean(1)[:, None, None, None])
    teeth = mouth * ((grey / level - DARK_TEETH) / (BRIGHT_TEETH - DARK_TEETH)).clamp(0, 1)
    # Lips and tongues are bright, too, and red.
    tint = _green_over_red(image)[:, None] / _green_over_red(typical)[:, None, None, None]
    teeth = teeth * ((tint - RED_FLESH) / (PALE_TEETH - RED_FLESH)).clamp(0, 1)
    weight = teeth**4
    area = weight.sum((2, 3))
    own = (image * weight).sum((2, 3)) / area.clamp_min(1e-3)
    return teeth, torch.lerp(typical, own, ((area - SEEN_PIXELS) / (KNOWN_PIXELS - SEEN_PIXELS)).clamp(0, 1))


def bright_part(image: torch.Tensor, mouth: torch.Tensor) -> torch.Tensor:
    """What is brighter than the mean of a mouth `(B, 1, H, H)`, as teeth are."""
    grey = image.mean(1, keepdim=True)
    level = (grey * mouth).sum((2, 3), keepdim=True) / mouth.sum((2, 3), keepdim=True).clamp_min(1e-3)
    return mouth * (grey > level)


@torch.no_grad()
def greenest_teeth(image: torch.Tensor, landmarks: torch.Tensor, mouth: torch.Tensor) -> torch.Tensor:
    """Green over red `(B,)` that teeth in a face's light have at most.

    Args:
        image: `(B, 3, H, H)`, black is 0.
        landmarks: `(B, 468, 2)` in pixels.
        mouth: `(B, 1, H, H)`, 1 inside the face's own inner lips.
    """
    skin = SKIN_TOLERANCE * _green_over_red(skin_colour(image, landmarks)).clamp_min(1e-3) ** SKIN_POWER
    bright = bright_part(image, mouth)
    own = OWN_TOLERANCE * _green_over_red((image * bright).sum((2, 3)))
    # A mouth without teeth is red, and says nothing of them.
    typical = skin / SKIN_TOLERANCE
    return torch.where(bright.sum((1, 2, 3)) > SEEN_PIXELS, torch.maximum(own, typical), skin)


def limit_green(paint: torch.Tensor, below: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    """Paint `(B, 3, H, W)`, black is 0, with green over red at most `most` `(B,)`; red gains what green loses.

    Args:
        below: `(B, 3, H, W)`, what is painted over: paint may be as green as that.
    """
    most = torch.maximum(most[:, None, None, None], _green_over_red(below)[:, None])
    red, green, blue = paint.split(1, 1)
    excess = (green - most * red).clamp_min(0) / (1 + most)
    return torch.cat([red + excess, green - excess, blue], 1)


def limit_yellow(paint: torch.Tensor, teeth: torch.Tensor) -> torch.Tensor:
    """Paint `(B, 3, H, W)`, black is 0, that is no yellower than teeth of a colour `(B, 3, 1, 1)`: blue is raised.

    What is as green as teeth has about as much blue as they have; what is redder is flesh, and may have less, and what
    is dark beside teeth is none.
    """
    red, green, blue = paint.split(1, 1)
    tint = (_green_over_red(paint)[:, None] / _green_over_red(teeth)[:, None]).clamp(0, 1)
    least = LEAST_BLUE * tint**BLUE_POWER * red * (teeth[:, 2:] / teeth[:, :1])
    light = paint.mean(1, keepdim=True) / teeth.mean(1, keepdim=True)
    bright = ((light - SHADED_TEETH) / (DARK_TEETH - SHADED_TEETH)).clamp(0, 1)
    return torch.cat([red, green, torch.lerp(blue, torch.maximum(blue, least), bright)], 1)


def shaded(colours: torch.Tensor, light: torch.Tensor) -> torch.Tensor:
    """Colours `(B, 3, h, w)`, black is 0, of which so much light `(B, 1, h, w)` is left, 0 to 1."""
    return colours * light ** colours.new_tensor(SHADE_POWERS)[:, None, None]


def _green_over_red(colours: torch.Tensor) -> torch.Tensor:
    """Of colours `(B, 3, …)`: `(B, …)`."""
    return colours[:, 1] / colours[:, 0].clamp_min(1e-3)
