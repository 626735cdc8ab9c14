"""What is seen inside an opened mouth, drawn at any resolution: teeth, the tongue, and the dark about them.

A portrait with closed lips says nothing of what is behind them, and the painter, which does, knows few pixels: in a
large face its teeth are a blurred band. Teeth are alike enough to be drawn instead. In millimetres, by the distance of
the eyes: upper teeth belong to the skull and stay where they are, lower ones go down with the chin, both stand on an
arch that recedes into the dark, the upper ones shade what is behind them, and lips shade everything. Widths of teeth
are those of textbooks of dental anatomy, foreshortened by the arch; heights, light and colours were chosen by eye on
portraits. A smile that shows its teeth lends their colour and the place of their edge, and where it shows them.

Training pictures are drawn with it (`data/reenactment.py`), and large faces when they speak (`rendering.py`).

Shapes: B faces in pictures of H × H pixels, landmarks `(B, 468, 2)` and places `(B, h, w, 2)` in those pixels.
"""

from dataclasses import dataclass

import torch

from .face_mesh import INNER_LIPS, LOWER_LIP_POSITIONS, UPPER_LIP_POSITIONS
from .lip_edges import well_inside
from .smooth_step import smooth_step
from .teeth_colour import seen_teeth, skin_colour, typical_teeth

EYE_CORNERS, CHIN, PHILTRUM = (33, 263), 152, 13
EYE_DISTANCE = 90.0  # mm between the outer corners of the eyes
EDGE_BELOW_LIPS = 3.0  # mm from the line between closed lips to the edge of the upper teeth
OVERBITE = 3.5  # mm by which upper teeth reach over the lower ones of a closed jaw
# Lips that are less than the first apart, in mm, hide the teeth behind them: one sees a sliver of them, and drawn ones
# beside it would not match. From the second on, all that a portrait shows between its lips stays where it is.
HIDING_GAP, SHOWING_GAP = 4.0, 6.5
# A face's own teeth end where the lowest do that lie so near the middle, in mm; drawn ones end so far behind them.
MIDDLE_TEETH, BEHIND = 8.0, 0.8
SIDE_RANGE = (0.6, 1.4)  # width of either half of a turned mouth relative to their mean


@dataclass(frozen=True)
class Row:
    """A row of teeth, in mm as seen from the front.

    Attributes:
        ends: where one tooth ends and the next begins, from the middle outwards.
        rises: how much shorter each tooth is than the middle one.
        shades: how light each tooth is.
        curve: by how much edges rise outwards, times the square of the distance from the middle.
        gaps: what gaps take of the light.
        rounding: how much shorter a tooth is at its sides.
    """

    ends: tuple[float, ...]
    rises: tuple[float, ...]
    shades: tuple[float, ...]
    curve: float
    gaps: float
    rounding: float


UPPER = Row(
    ends=(0.0, 8.4, 14.6, 21.0, 25.5, 29.0, 60.0),
    rises=(0.0, 0.7, 0.3, 1.3, 2.0, 2.5),
    shades=(1.0, 0.98, 0.93, 0.94, 0.92, 0.9),
    curve=0.004,
    gaps=0.4,
    rounding=1.1,
)
LOWER = Row(
    ends=(0.0, 5.3, 10.9, 17.0, 22.0, 26.0, 60.0),
    rises=(0.0, 0.0, -0.4, 0.6, 1.0, 1.5),
    shades=(1.0, 0.99, 0.94, 0.93, 0.92, 0.9),
    curve=-0.006,
    gaps=0.25,
    rounding=0.5,
)
ROUNDING_POWER = 5  # how far at its sides a tooth gets shorter
SIDE_SHADE = 0.15  # what a tooth's sides lose of the light, being round
GAP_WIDTH, EDGE_SOFTNESS = 0.25, 0.5  # mm
EDGE_SHADE, EDGE_HEIGHT = 0.12, 1.6  # edges are translucent, over so many mm
LOWER_LIGHT = 0.72  # the light that reaches the lower teeth
# Along the arch light fades from the first distance on, in mm, over the second, by a share.
ARCH_START, ARCH_LENGTH, ARCH_SHADE = 6.0, 20.0, 0.7
DEPTH_COLOUR, TONGUE_COLOUR = (0.26, 0.12, 0.11), (0.72, 0.36, 0.36)  # shares of flesh, which is skin as light as red
# The tongue lies behind the lower teeth. It begins so many mm below the edge of the upper ones, and goes down with a
# share of the jaw; it comes into the light over so many mm, and is so wide to either side.
TONGUE_START, TONGUE_SHARE, TONGUE_DEPTH, TONGUE_WIDTH, TONGUE_LIGHT = 1.0, 0.4, 5.0, 18.0, 0.8
SHADOW, SHADOW_REACH = 0.5, 2.0  # of the upper teeth; mm
# Close to the upper and to the lower lip there is so much light; all of it is there so many mm further. It begins a
# little behind the lip's edge, which is soft.
LIP_LIGHTS, LIP_REACHES, LIP_STARTS = (0.45, 0.85), (4.0, 2.0), (0.8, 0.5)


class MouthInterior:
    """The insides of the mouths of B faces.

    Args:
        pictures: the faces at rest `(B, 3, H, H)`, black is 0.
        landmarks: theirs.
        mouth: `(B, 1, H, H)`, 1 inside their own inner lips.
        size: side of a face's crop in pixels.
        white: what white is in the pictures.

    Attributes:
        own: `(B, 1, H, H)`, how much of what a face shows inside its lips is to stay where it is.
    """

    def __init__(
        self, pictures: torch.Tensor, landmarks: torch.Tensor, mouth: torch.Tensor, size: int, white: float = 255.0
    ):
        self.white = white
        right_eye, left_eye = (landmarks[:, corner] for corner in EYE_CORNERS)
        self.mm = ((left_eye - right_eye).norm(dim=-1) / EYE_DISTANCE)[:, None, None]  # pixels
        self.middle, self.chin = landmarks[:, PHILTRUM, 0, None, None], landmarks[:, CHIN, 1, None, None]
        right, left = (landmarks[:, INNER_LIPS[position], 0, None, None] for position in (0, 10))
        half = (left - right).clamp_min(1) / 2
        self.right, self.left = (
            (side / half).clamp(*SIDE_RANGE) for side in (self.middle - right, left - self.middle)
        )
        typical = typical_teeth(pictures, landmarks, white)
        inside = well_inside(mouth, size)
        seen, teeth = seen_teeth(pictures, inside, typical)
        upper, lower = (
            landmarks[:, INNER_LIPS[positions[4]], 1] for positions in (UPPER_LIP_POSITIONS, LOWER_LIP_POSITIONS)
        )
        gap = (lower - upper) / self.mm[:, 0, 0]
        shown = smooth_step((gap - HIDING_GAP) / (SHOWING_GAP - HIDING_GAP)) * (seen > 0.5).flatten(1).any(1)
        self.own = inside * shown[:, None, None, None]
        edge = (upper + lower) / 2 + EDGE_BELOW_LIPS * self.mm[:, 0, 0]
        self.edge = torch.lerp(edge, torch.maximum(edge, self._own_edge(seen)), shown)[:, None, None]
        skin = skin_colour(pictures, landmarks)
        flesh = skin / skin[:, :1].clamp_min(1e-3) * skin.mean(1, keepdim=True)
        colours = (teeth, *(flesh * flesh.new_tensor(share) for share in (DEPTH_COLOUR, TONGUE_COLOUR)))
        self.teeth, self.dark, self.tongue = (colour[:, :, None, None] for colour in colours)

    def _own_edge(self, seen: torch.Tensor) -> torch.Tensor:
        """Height `(B,)` of the lower edge of the teeth that are seen `(B, 1, H, H)`; none is above the picture."""
        cells = torch.arange(seen.shape[-1], device=seen.device)
        middle = (cells - self.middle[:, 0]).abs() < MIDDLE_TEETH * self.mm[:, 0]  # (B, W)
        rows = ((seen[:, 0] > 0.5) & middle[:, None]).any(2)  # (B, H)
        return (rows * (cells + 0.5)).amax(1) - BEHIND * self.mm[:, 0, 0]

    def draw(self, places: torch.Tensor, landmarks: torch.Tensor, pixel: float) -> torch.Tensor:
        """Colours `(B, 3, h, w)`, from 0 to white, at places between and near the lips.

        Args:
            landmarks: of the faces as they speak.
            pixel: how far places are apart: what is narrower is drawn fainter.
        """
        x, y = places.unbind(-1)
        across = (x - self.middle) / self.mm  # mm
        across = across / torch.where(across < 0, self.right, self.left)
        down = (y - self.edge) / self.mm  # below the edge of the upper teeth
        jaw = (landmarks[:, CHIN, 1, None, None] - self.chin) / self.mm
        pixels = pixel / self.mm
        arch = 1 - ARCH_SHADE * smooth_step((across.abs() - ARCH_START) / ARCH_LENGTH)

        tongue = smooth_step((down - TONGUE_SHARE * jaw - TONGUE_START) / TONGUE_DEPTH)
        tongue = TONGUE_LIGHT * tongue * (1 - (across / TONGUE_WIDTH) ** 2).clamp_min(0)
        drawn = torch.lerp(self.dark, self.tongue, tongue[:, None])
        cover, light = _row_of_teeth(LOWER, across, jaw - OVERBITE - down, pixels)
        drawn = torch.lerp(drawn, self.teeth * (LOWER_LIGHT * light * arch)[:, None], cover[:, None])
        beyond = (down + UPPER.curve * across**2).clamp_min(0)
        drawn = drawn * (1 - SHADOW * torch.exp(-beyond / SHADOW_REACH))[:, None]
        cover, light = _row_of_teeth(UPPER, across, down, pixels)
        drawn = torch.lerp(drawn, self.teeth * (light * arch)[:, None], cover[:, None])
        return (drawn * self._light(x, y, landmarks)[:, None]).clamp(0, self.white)

    def _light(self, x: torch.Tensor, y: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
        """What lips leave of the light `(B, h, w)`."""
        light = torch.ones_like(x)
        lips = zip(
            (UPPER_LIP_POSITIONS, LOWER_LIP_POSITIONS), (1, -1), LIP_LIGHTS, LIP_REACHES, LIP_STARTS, strict=True
        )
        for positions, away, least, reach, start in lips:
            distance = away * (y - _lip_edge(landmarks, positions, x)) / self.mm
            light = light * (least + (1 - least) * smooth_step((distance + start) / reach))
        return light


def _row_of_teeth(
    row: Row, across: torch.Tensor, beyond: torch.Tensor, pixel: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How much teeth cover, and the light on them, `(B, h, w)` each.

    Args:
        across, beyond: `(B, h, w)`, mm from the middle, and beyond the edge of the middle teeth.
        pixel: `(B, 1, 1)`, mm.
    """
    ends, rises, shades = (across.new_tensor(values) for values in (row.ends, row.rises, row.shades))
    distance = across.abs().clamp(max=row.ends[-1] - 1)
    tooth = torch.bucketize(distance, ends, right=True) - 1
    start, half = ends[tooth], (ends[tooth + 1] - ends[tooth]) / 2
    place = (distance - start) / half - 1  # -1 and 1 at a tooth's sides
    beyond = beyond + rises[tooth] + row.curve * across**2 + row.rounding * place.abs() ** ROUNDING_POWER
    cover = (0.5 - beyond / pixel.clamp_min(EDGE_SOFTNESS)).clamp(0, 1)
    # A gap that is narrower than a pixel is wider and fainter.
    width = GAP_WIDTH + 0.4 * pixel
    gap = row.gaps * (GAP_WIDTH / width) ** 0.7 * torch.exp(-(((1 - place.abs()) * half / width) ** 2))
    edge = EDGE_SHADE * (1 - smooth_step(-beyond / EDGE_HEIGHT))
    return cover, shades[tooth] * (1 - SIDE_SHADE * place**2) * (1 - gap) * (1 - edge)


def _lip_edge(landmarks: torch.Tensor, positions: tuple[int, ...], x: torch.Tensor) -> torch.Tensor:
    """Height `(B, h, w)` of the inner edge of a lip at `x` `(B, h, w)`."""
    points = landmarks[:, [INNER_LIPS[0], *(INNER_LIPS[i] for i in positions), INNER_LIPS[10]]]  # (B, 11, 2)
    along, height = points[..., 0].contiguous(), points[..., 1]
    where = x.flatten(1).contiguous()
    end = torch.searchsorted(along, where).clamp(1, along.shape[1] - 1)
    first, last = along.gather(1, end - 1), along.gather(1, end)
    share = ((where - first) / (last - first).clamp_min(1e-3)).clamp(0, 1)
    return torch.lerp(height.gather(1, end - 1), height.gather(1, end), share).view_as(x)
