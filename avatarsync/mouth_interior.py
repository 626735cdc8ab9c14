"""What is seen inside an opened mouth, drawn at any resolution: teeth, the tongue, and the dark about them.

A portrait with closed lips says nothing of what is behind them, and the painter, which does, knows few pixels: in a
large face its teeth are a blurred band. Teeth are alike enough to be drawn instead. In millimetres, by the distance of
the eyes: upper teeth belong to the skull and stay where they are, lower ones go down with the chin, both stand on an
arch that recedes into the dark, the upper ones shade what is behind them, and lips shade everything; rounded lips hide
the teeth, and the tongue goes where phonemes put it (`articulators.py`). Widths of teeth are those of textbooks of
dental anatomy, foreshortened by the arch; heights, light and colours were chosen by eye on portraits.

A smile lends the colour of its teeth and the place of their edge, and all that it shows between its lips is kept: what
is above that edge stays with the skull, and reaches up to the lip, what is below goes with the jaw.

Training pictures are drawn with it (`data/reenactment.py`), and large faces when they speak (`mouth_colours.py`).

Shapes: B faces in pictures of H × H pixels; landmarks `(B, 468, 2)` and places `(B, h, w, 2)` in those pixels. Inside,
both are turned so that the line of the eyes is level.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .expression_transfer import FORETOLD_CHIN_SHARE, FORETOLD_WIDTH_GAIN, RESTING_WIDTH
from .face_mesh import INNER_LIPS, LOWER_LIP_POSITIONS, UPPER_LIP_POSITIONS
from .image_processing_face import EYE_TO_NOSE_RATIO, LEFT_EYE_CORNERS, NOSE_BASE, RIGHT_EYE_CORNERS
from .lip_edges import between, mouth_width, well_inside
from .smooth_step import smooth_step
from .teeth_colour import SEEN_PIXELS, lip_colour, seen_teeth, shaded, skin_colour, typical_teeth
from .warping import mesh_flow

OUTER_EYE_CORNERS, CHIN, UPPER_LIP = (33, 263), 152, 13
# Millimetres between the outer corners of the eyes, by which widths are measured, and between their centres, by which
# heights are, as crops are: eyes draw together when the head turns, and the way from them to the nose does not.
OUTER_EYE_DISTANCE, EYE_DISTANCE = 90.0, 66.6
# The upper teeth's edge, in mm below the line between closed lips. Of open lips that show no teeth, that line lies so
# far below the upper lip at most.
EDGE_BELOW_LIPS, MOST_RAISED_LIP = 3.0, 1.5
OVERBITE = 3.5  # mm by which upper teeth reach over the lower ones of a closed jaw
# The skin of the chin slides farther than the bone below it: in training clips, what is drawn between the lips is like
# the film by 12.4 dB if lower teeth go as far as the chin's landmark, 13.1 dB at three quarters of it and 14.9 dB at
# half. But that man's lower teeth stand high, and with a half other people speak with clenched ones. Chins of what is
# foretold go less far, and the bone as far as it would.
JAW_SHARE = 0.75
# Lips that are less apart, in mm, hide the teeth behind them: one sees a sliver of them, and drawn ones beside it
# would not match. Nor do they where too little of what is between the upper lip and the teeth's edge is bright enough
# for teeth, a share, so many mm to both sides of the middle: among drawn teeth the rest, shade or flesh, looks like
# black fillings. Of other portraits all that is between the lips is kept, and wholly: half transparent, teeth look
# double.
SHOWING_GAP, LEAST_TEETH, FRONT_TEETH = 5.25, 0.5, 10.0
# Where a face's own teeth end is looked for so near to the middle, at so many heights and in so many columns, of which
# a share must show teeth; upper ones are at most so long. All but the share in mm. Drawn teeth end so far behind them.
MIDDLE_TEETH, PROFILE, PROFILE_SHARE, LONGEST_TEETH, BEHIND = 8.0, (96, 9), 0.4, 11.0, 0.8
# What is below the edge of upper teeth that are seen, all of it from so many mm on, goes with the jaw; nothing does
# where the lower lip is less than the first of these distances below that edge, and all from the second on.
EDGE_FADE, JAW_GAPS = 1.0, (2.0, 4.0)
# Beside the teeth that a smile shows it is dark, and drawn ones would stand there as grey tiles: they fade where the
# last column is that shows so much tooth, looked for every half a mm up to the second value, over so many mm and by a
# share.
SEEN_COLUMN, WIDEST_ROW, ROW_FADE, ROW_HIDDEN = 0.4, 30.0, 3.0, 0.8
# Where the upper lip rises, own teeth are stretched to it, since drawn ones above them would not match: by the share
# of their height that is nearest to the lip, but for so many mm at its edge, which are in its shade and go with it.
STRETCHED_SHARE, LIP_RIM = 0.8, 1.5
SIDE_RANGE = (0.6, 1.4)  # width of either half of a turned mouth relative to their mean


@dataclass(frozen=True)
class Row:
    """A row of teeth, in mm as seen from the front.

    Attributes:
        ends: where one tooth ends and the next begins, from the middle outwards.
        shorter: by how much each tooth is shorter than the middle one.
        shades: how light each tooth is.
        curve: by how much teeth get shorter outwards, times the square of the distance from the middle.
        gaps: what gaps take of the light at the teeth's edge.
        rounding: how much shorter a tooth is at its sides.
    """

    ends: tuple[float, ...]
    shorter: tuple[float, ...]
    shades: tuple[float, ...]
    curve: float
    gaps: float
    rounding: float


UPPER = Row(
    ends=(0.0, 8.4, 14.6, 21.0, 25.5, 29.0, 60.0),
    shorter=(0.0, 0.7, 0.3, 1.3, 2.0, 2.5),
    shades=(1.0, 0.98, 0.93, 0.94, 0.92, 0.9),
    curve=0.004,
    gaps=0.4,
    rounding=1.1,
)
LOWER = Row(
    ends=(0.0, 5.3, 10.9, 17.0, 22.0, 26.0, 60.0),
    shorter=(0.0, 0.0, -0.4, 0.6, 1.0, 1.5),
    shades=(1.0, 0.99, 0.94, 0.93, 0.92, 0.9),
    curve=-0.006,
    gaps=0.25,
    rounding=0.5,
)
ROUNDING_POWER = 5  # how far at its sides a tooth gets shorter
SIDE_SHADE = 0.1  # what a tooth's sides lose of the light, being round
# Teeth touch farther up, where little of the dark behind them is seen: so many mm from the edge on, gaps are as deep
# as this share of what they are there. As deep all the way, a strip of teeth above a lip looks stitched.
GAP_HEIGHT, TOUCHING = 3.5, 0.2
GAP_WIDTH, EDGE_SOFTNESS = 0.25, 0.5  # mm
# A gap that is narrower than a pixel is wider by this share of it, and fainter by this power of how much wider.
GAP_BLUR, GAP_FAINTNESS = 0.4, 0.7
EDGE_SHADE, EDGE_HEIGHT = 0.12, 1.6  # edges are translucent, over so many mm
LOWER_LIGHT = 0.72  # the light that reaches the lower teeth
LEAST_LOWER = 2.0  # mm of them above the lip: of less, which would be a row of dashes, less is drawn
# Along the arch light fades from the first distance on, in mm, over the second, by a share.
ARCH_START, ARCH_LENGTH, ARCH_SHADE = 6.0, 20.0, 0.7
# Shares of flesh, which is skin whose strongest colour is as strong as the mean of all.
DEPTH_COLOUR, TONGUE_COLOUR = (0.36, 0.19, 0.17), (0.85, 0.45, 0.44)
# The tongue lies behind the lower teeth. Lying, it begins so many mm below the edge of the upper ones and goes down
# with a share of the jaw; raised, its tip begins at the third value. It curves down to its sides, is so wide to both,
# and comes into the light over so many mm, low and raised.
TONGUE_START, TONGUE_SHARE, TIP_TOP, TONGUE_CURVE, TONGUE_WIDTH = 0.5, 0.2, -1.0, 0.004, 18.0
TONGUE_DEPTHS, TONGUE_LIGHTS = (5.0, 2.0), (0.8, 1.0)
# Raised by more than a share, its tip comes between the teeth, before all of them: so many mm thick in its middle and
# so wide to either side, on the lower lip.
TIP_BETWEEN_TEETH, TIP_THICKNESS, TIP_WIDTH, TIP_SOFTNESS = 0.85, 3.5, 13.0, 1.0
TIP_SHADE, TIP_SHADE_REACH = 0.35, 2.0  # the light that upper teeth take from it, up to so many mm below them
# There it is beside the lips, and so much of its colour is like theirs, as flesh, times the second value.
LIP_LIKENESS, LIP_COLOUR = 0.6, 0.95
SHADOW, SHADOW_REACH = 0.5, 2.0  # of the upper teeth; mm
# Rounded lips are pushed forward: the teeth lie deep behind them, in the dark, and the upper lip hangs lower before
# them. Lips are rounded that are narrower by the first share of their width, and fully by the second. With gaps up to
# the first, in mm, they are shut, and there is nothing to darken but the line between them; from the third to the
# fourth they are less so, since jaws that drop draw the corners together, too. So many mm of both rows are hidden, and
# of a portrait's own teeth. Left where they are and darkened, a smile's teeth were a grey slab at every /u/.
ROUNDED_WIDTHS, ROUNDED_GAPS, ROUNDED_HIDDEN = (0.06, 0.22), (1.0, 3.0, 7.0, 13.0), 8.0
# Close to the upper and to the lower lip there is so much light; all of it is there so many mm further. It begins a
# little behind the lip's edge, which is soft.
LIP_LIGHTS, LIP_REACHES, LIP_STARTS = (0.45, 0.85), (4.0, 2.0), (0.8, 0.5)


class MouthInterior:
    """The insides of the mouths of B faces.

    Args:
        pictures: the faces at rest `(B, 3, H, H)`, black is 0.
        landmarks: theirs.
        size: side of a face's crop in pixels.
        white: what white is in the pictures.
        foretold: whether mouths will move as they do where speech foretells it (`ExpressionTransfer`): farther than
            people's, and smiles give way. False for faces that take over what was seen of somebody.
        articulation: how far they will go, 1 as far as foretold.

    Attributes:
        teeth: colour `(B, 3, 1, 1)` of well lit teeth.
        edge: height `(B, 1, 1)` of the upper teeth's edge at its middle.
        row_ends: how far upper teeth reach to the left and right in the picture, in mm, `(B, 1, 1)` each.
        resting_jaw: `(B, 1, 1)`, mm by which the jaw of the face at rest hangs down.
        own: `(B, 2, H, H)`, how much of what a face shows between its lips is kept: with the skull, and with the jaw.
    """

    def __init__(
        self,
        pictures: torch.Tensor,
        landmarks: torch.Tensor,
        size: int,
        white: float = 255.0,
        foretold: bool = True,
        articulation: float = 1.0,
    ):
        self.white, self.articulation, self.resting, side = white, articulation, landmarks, pictures.shape[-1]
        right_eye, left_eye = (landmarks[:, corner] for corner in OUTER_EYE_CORNERS)
        across = left_eye - right_eye
        distance = across.norm(dim=-1, keepdim=True).clamp_min(1e-3)
        x, y = (across / distance).unbind(-1)
        self.cos, self.sin = x[:, None, None], y[:, None, None]  # of the turn of the eyes' line
        eyes = [landmarks[:, corners].mean(1) for corners in (RIGHT_EYE_CORNERS, LEFT_EYE_CORNERS)]
        to_nose = (landmarks[:, NOSE_BASE] - (eyes[0] + eyes[1]) / 2).norm(dim=-1)
        height = torch.maximum((eyes[1] - eyes[0]).norm(dim=-1), EYE_TO_NOSE_RATIO * to_nose).clamp_min(1e-3)
        # In pixels.
        self.width_mm, self.mm = distance[..., None] / OUTER_EYE_DISTANCE, height[:, None, None] / EYE_DISTANCE

        x, y = self._level(landmarks[:, None])
        self.middle, self.chin = x[..., UPPER_LIP, None], y[..., CHIN, None]
        right, left = (x[..., INNER_LIPS[position], None] for position in (0, 10))
        half = (left - right).clamp_min(1) / 2
        widths = ((part / half).clamp(*SIDE_RANGE) for part in (self.middle - right, left - self.middle))
        self.right_width, self.left_width = widths
        upper, lower = (
            y[..., INNER_LIPS[positions[4]], None] for positions in (UPPER_LIP_POSITIONS, LOWER_LIP_POSITIONS)
        )

        self._width_gain, self._unrounded_width = FORETOLD_WIDTH_GAIN, mouth_width(landmarks)
        self._jaw_share = JAW_SHARE
        if foretold:
            self._jaw_share /= FORETOLD_CHIN_SHARE
            # A smile gives way by some of what it is wider than other mouths, and is not rounded yet. It never gets as
            # narrow as they do, so that rounding is told from a width between its own and theirs.
            usual = self._unrounded_width.clamp(max=RESTING_WIDTH * size)
            self._width_gain, self._unrounded_width = 1.0, (self._unrounded_width * usual).sqrt()
        _, mouth = mesh_flow(landmarks, landmarks, side)
        typical, inside = typical_teeth(pictures, landmarks, white), well_inside(mouth, size)
        seen, teeth = seen_teeth(pictures, inside, typical)
        gap = (lower - upper) / self.mm
        area = seen.sum((1, 2, 3))[:, None, None]
        own_edge = self._own_edge(seen, upper, lower)
        shown = (gap > SHOWING_GAP) & (area > 1.5 * SEEN_PIXELS)
        shown = shown & (self._share_of_teeth(seen, inside, upper, own_edge) > LEAST_TEETH)  # (B, 1, 1)
        lips_line = upper + torch.minimum(gap / 2, torch.full_like(gap, MOST_RAISED_LIP)) * self.mm
        edge = lips_line + EDGE_BELOW_LIPS * self.mm
        self.edge = torch.where(shown, own_edge, edge)
        self.row_ends = [torch.where(shown, end, UPPER.ends[-1]) for end in self._own_row_ends(seen, upper, lower)]
        self.resting_jaw = ((lower - self.edge) / self.mm).clamp_min(0)

        cells = torch.arange(side, device=mouth.device, dtype=landmarks.dtype)
        places = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), -1)
        across, down = self._millimetres(*self._level(places.expand(len(mouth), -1, -1, -1)))
        below = smooth_step((down + UPPER.curve * across**2 - BEHIND) / EDGE_FADE)
        below = below * smooth_step((self.resting_jaw - JAW_GAPS[0]) / (JAW_GAPS[1] - JAW_GAPS[0]))
        self.own = (inside[:, 0] * shown)[:, None] * torch.stack([1 - below, below], 1)

        flesh = _flesh(skin_colour(pictures, landmarks), white)
        dark, tongue = (flesh * flesh.new_tensor(share) for share in (DEPTH_COLOUR, TONGUE_COLOUR))
        tip = torch.lerp(tongue, LIP_COLOUR * _flesh(lip_colour(pictures, landmarks), white), LIP_LIKENESS)
        colours = (teeth, dark, tongue, tip)
        self.teeth, self.dark, self.tongue, self.tip = (colour[:, :, None, None] for colour in colours)

    def _own_edge(self, seen: torch.Tensor, upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
        """Height `(B, 1, 1)` at which the teeth that are seen `(B, 1, H, H)` end, below the upper lip."""
        rows, columns = PROFILE
        end = torch.minimum(lower + self.mm, upper + LONGEST_TEETH * self.mm)
        y = torch.lerp(upper, end, torch.linspace(0, 1, rows).to(upper)[:, None])  # (B, rows, 1)
        x = self.middle + torch.linspace(-MIDDLE_TEETH, MIDDLE_TEETH, columns).to(y) * self.width_mm
        profile = self._sample_level(seen, x, y).gt(0.5).float().mean(2) > PROFILE_SHARE  # (B, rows)
        ended = (profile.cumsum(1) > 0) & ~profile
        # Where they do not end, they do at the last row.
        last = torch.where(ended.any(1), ended.byte().argmax(1), rows - 1)
        return y.gather(1, last[:, None, None]) - BEHIND * self.mm

    def _own_row_ends(self, seen: torch.Tensor, upper: torch.Tensor, lower: torch.Tensor) -> list[torch.Tensor]:
        """How far from the middle teeth are seen `(B, 1, H, H)` to the left and right, in mm, `(B, 1, 1)` each."""
        # Corners of smiles are higher than the middle of the upper lip.
        y = torch.lerp(upper - LONGEST_TEETH * self.mm, lower, torch.linspace(0, 1, PROFILE[0]).to(upper)[:, None])
        away = torch.arange(0, WIDEST_ROW, 0.5).to(y)
        ends = []
        for side, width in ((-1, self.right_width), (1, self.left_width)):
            x = self.middle + side * away * self.width_mm * width
            tooth = self._sample_level(seen, x, y).amax(1, keepdim=True) > SEEN_COLUMN  # (B, 1, columns)
            ends.append((tooth * away).amax(2, keepdim=True))
        return ends

    def _share_of_teeth(self, seen, inside, upper: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
        """How much `(B, 1, 1)` of what is inside lips `(B, 1, H, H)` and above the edge of the teeth seen is teeth."""
        rows, columns = PROFILE
        shares = torch.linspace(0, 1, rows).to(upper)[:, None]
        y = torch.lerp(upper - FRONT_TEETH / 2 * self.mm, edge + BEHIND * self.mm, shares)  # (B, rows, 1)
        x = self.middle + torch.linspace(-FRONT_TEETH, FRONT_TEETH, 4 * columns).to(y) * self.width_mm
        teeth, all_there = (self._sample_level(field, x, y).sum((1, 2), keepdim=True) for field in (seen, inside))
        return teeth / all_there.clamp_min(1e-3)

    def _sample_level(self, fields: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Fields `(B, 1, H, H)` at rows `(B, h, 1)` and columns `(B, 1, w)` of level faces: `(B, h, w)`."""
        places = torch.stack([self.cos * x - self.sin * y, self.sin * x + self.cos * y], -1)  # (B, h, w, 2)
        return sample(fields, places)[:, 0]

    def _level(self, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Places in a picture in which the line of the eyes is level: x and y, `(B, h, w)` each.

        Term by term and not as a matrix product, whose rounding depends on how many frames are drawn together.
        """
        x, y = places.unbind(-1)
        return self.cos * x + self.sin * y, self.cos * y - self.sin * x

    def _millimetres(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How far level places are from the middle, and below the edge of the upper teeth, `(B, h, w)` each."""
        across = (x - self.middle) / self.width_mm
        return across / torch.where(across < 0, self.right_width, self.left_width), (y - self.edge) / self.mm

    def jaw(self, landmarks: torch.Tensor) -> torch.Tensor:
        """How many mm the jaw has gone down since the picture `(B, 1, 1)`."""
        return self._jaw_share * (self._level(landmarks[:, None, CHIN : CHIN + 1])[1] - self.chin) / self.mm

    def rounded(self, landmarks: torch.Tensor) -> torch.Tensor:
        """How rounded lips are `(B, 1, 1)`, 0 to 1."""
        narrowed = self._width_gain * (1 - mouth_width(landmarks) / self._unrounded_width)[:, None, None]
        height = self._level(landmarks[:, None, [INNER_LIPS[5], INNER_LIPS[15]]])[1]  # (B, 1, 2)
        gap = (height[..., :1] - height[..., 1:]) / self.mm
        narrowed, gap = narrowed / self.articulation, gap / self.articulation
        rounded = smooth_step((narrowed - ROUNDED_WIDTHS[0]) / (ROUNDED_WIDTHS[1] - ROUNDED_WIDTHS[0]))
        shut, ajar, narrow, wide = ROUNDED_GAPS
        return rounded * smooth_step((gap - shut) / (ajar - shut)) * smooth_step((wide - gap) / (wide - narrow))

    def out_of_sight(self, places: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
        """How dark rounded lips make places between them `(B, h, w, 2)`: `(B, 1, h, w)`, 0 to 1. Wholly where upper
        teeth were that they hide, and not at all above."""
        across, down = self._millimetres(*self._level(places))
        down, rounded = down + UPPER.curve * across**2, self.rounded(landmarks)
        was_tooth = smooth_step(-down / EDGE_FADE)
        no_tooth = smooth_step((down + ROUNDED_HIDDEN * rounded) / EDGE_FADE)
        return (no_tooth * (was_tooth + (1 - was_tooth) * rounded))[:, None]

    def draw(
        self, places: torch.Tensor, landmarks: torch.Tensor, pixel: float, tongue_heights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Colours `(B, 3, h, w)`, from 0 to white, at places between and near the lips.

        Args:
            landmarks: of the faces as they speak.
            pixel: how far places are apart: what is narrower is drawn fainter.
            tongue_heights: `(B,)` of its tip, 0 low to 1 between the teeth; None: low.
        """
        x, y = self._level(places)
        (across, down), lips = self._millimetres(x, y), self._lips_at(x, landmarks)
        jaw, pixels = self.resting_jaw + self.jaw(landmarks), pixel / self.mm
        arch = 1 - ARCH_SHADE * smooth_step((across.abs() - ARCH_START) / ARCH_LENGTH)

        rounded = self.rounded(landmarks)
        tongue = self._tongue(across, down, jaw, tongue_heights)
        drawn = torch.lerp(self.dark, self.tongue, tongue[:, None])
        top = jaw - OVERBITE + ROUNDED_HIDDEN * rounded
        cover, light = _row_of_teeth(LOWER, across, top - down, pixels)
        cover = cover * smooth_step(((lips[1] - self.edge) / self.mm - top) / LEAST_LOWER)
        drawn = torch.lerp(drawn, shaded(self.teeth, (LOWER_LIGHT * light * arch)[:, None]), cover[:, None])
        beyond = (down + UPPER.curve * across**2).clamp_min(0)
        drawn = shaded(drawn, (1 - SHADOW * torch.exp(-beyond / SHADOW_REACH))[:, None])
        cover, light = _row_of_teeth(UPPER, across, down + ROUNDED_HIDDEN * rounded, pixels)
        beyond = across.abs() - torch.where(across < 0, *self.row_ends)
        cover = cover * (1 - ROW_HIDDEN * smooth_step(beyond / ROW_FADE))
        drawn = torch.lerp(drawn, shaded(self.teeth, (light * arch)[:, None]), cover[:, None])
        if tongue_heights is not None:
            tip, light = self._tip(across, y, lips[1], tongue_heights)
            drawn = torch.lerp(drawn, shaded(self.tip, light), tip)
        return shaded(drawn, self._light(y, lips)[:, None]).clamp(0, self.white)

    def _tongue(self, across, down, jaw, heights) -> torch.Tensor:
        """How much the tongue shows behind the teeth `(B, h, w)`."""
        raised = jaw.new_zeros(1, 1, 1) if heights is None else heights[:, None, None].to(jaw)
        top = torch.lerp(TONGUE_SHARE * jaw + TONGUE_START, jaw.new_tensor(TIP_TOP), raised) + TONGUE_CURVE * across**2
        depth, light = (low + (high - low) * raised for low, high in (TONGUE_DEPTHS, TONGUE_LIGHTS))
        return light * smooth_step((down - top) / depth) * (1 - (across / TONGUE_WIDTH) ** 2).clamp_min(0)

    def _tip(self, across, y, lower_lip, heights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How much its tip covers, which lies between the teeth and on the lower lip, and the light on it,
        `(B, 1, h, w)` each."""
        above = (lower_lip - y) / self.mm
        below_teeth = TIP_THICKNESS * (1 - (across / TIP_WIDTH) ** 2) - above
        raised = smooth_step((heights.to(above) - TIP_BETWEEN_TEETH) / (1 - TIP_BETWEEN_TEETH))
        shown = smooth_step(below_teeth / TIP_SOFTNESS) * raised[:, None, None]
        light = 1 - TIP_SHADE * (1 - smooth_step(below_teeth / TIP_SHADE_REACH))
        return shown[:, None], light[:, None]

    def kept(
        self, places: torch.Tensor, landmarks: torch.Tensor, tongue_heights: torch.Tensor | None = None
    ) -> list[tuple[torch.Tensor, ...]]:
        """What of the faces' own is seen at places, from back to front: where in the picture it is `(B, h, w, 2)`, how
        much of it is seen, and what lips that have come nearer leave of its light, `(B, 1, h, w)` each."""
        fallen, rounded = self.jaw(landmarks) * self.mm, self.rounded(landmarks)
        with_skull, with_jaw = self.own.expand(len(places), -1, -1, -1).split(1, 1)
        x, y = self._level(places)
        lips, resting = self._lips_at(x, landmarks), self._lips_at(x, self.resting.expand(len(places), -1, -1))
        light, across = self._light(y, lips), self._millimetres(x, y)[0]
        uncovered = 1.0 if tongue_heights is None else 1 - self._tip(across, y, lips[1], tongue_heights)[0]
        # Own teeth are hidden by rounded lips as drawn ones are, which would else come out beside them.
        hidden = ROUNDED_HIDDEN * rounded * self.mm
        hidden = hidden + self._stretched(across, y + hidden, lips[0] + hidden, resting[0])
        # What is lower in the face is as far across: the same lips are above and below it.
        return [
            (
                self._lower(places, pixels),
                uncovered * sample(own, self._lower(places, pixels)),
                (light / self._light(y + pixels, resting)).clamp(max=1)[:, None],
            )
            for pixels, own in ((-fallen, with_jaw), (hidden, with_skull))
        ]

    def _stretched(self, across, y, lip: torch.Tensor, resting: torch.Tensor) -> torch.Tensor:
        """How many pixels `(B, h, w)` further down was at rest what upper teeth show at heights `y`, stretched to the
        upper lip, which is at `lip` and was at `resting` there, `(B, h, w)` each."""
        raised = (resting - lip).clamp_min(0)
        height = STRETCHED_SHARE * (self.edge - UPPER.curve * self.mm * across**2 - resting)
        height = (height - LIP_RIM * self.mm).maximum(self.mm)
        return raised * ((resting + LIP_RIM * self.mm + height - y) / (height + raised)).clamp(0, 1)

    def _lower(self, places: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Places `(B, h, w, 2)` so many pixels `(B, 1, 1)` or `(B, h, w)` further down the face."""
        return places + torch.stack([-self.sin * pixels, self.cos * pixels], -1)

    def _lips_at(self, x: torch.Tensor, landmarks: torch.Tensor) -> list[torch.Tensor]:
        """Heights `(B, h, w)` of the inner edges of the upper and the lower lip at level places `x` `(B, h, w)`."""
        points = torch.stack(self._level(landmarks[:, None]), -1)[:, 0]
        return [_lip_edge(points, positions, x) for positions in (UPPER_LIP_POSITIONS, LOWER_LIP_POSITIONS)]

    def _light(self, y: torch.Tensor, lips: list[torch.Tensor]) -> torch.Tensor:
        """What lips leave of the light `(B, h, w)` at heights `(B, h, w)` in level faces."""
        light = torch.ones_like(y)
        for lip, away, least, reach, start in zip(lips, (1, -1), LIP_LIGHTS, LIP_REACHES, LIP_STARTS, strict=True):
            distance = away * (y - lip) / self.mm
            light = light * (least + (1 - least) * smooth_step((distance + start) / reach))
        return light


def sample(fields: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Fields `(B, C, H, H)` at places `(B, h, w, 2)` in their pixels; nothing beyond their edges."""
    grid = (2 * places + 1) / fields.shape[-1] - 1
    return F.grid_sample(fields, grid, padding_mode="zeros", align_corners=False)


def _row_of_teeth(
    row: Row, across: torch.Tensor, beyond: torch.Tensor, pixel: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How much teeth cover, and the light on them, `(B, h, w)` each.

    Args:
        across, beyond: `(B, h, w)`, mm from the middle, and beyond the edge of the middle teeth.
        pixel: `(B, 1, 1)`, mm.
    """
    ends, shorter, shades = (across.new_tensor(values) for values in (row.ends, row.shorter, row.shades))
    distance = across.abs().clamp(max=row.ends[-1] - 1)
    tooth = (torch.bucketize(distance, ends, right=True) - 1).clamp(0, len(shorter) - 1)
    start, half = ends[tooth], (ends[tooth + 1] - ends[tooth]) / 2
    place = (distance - start) / half - 1  # -1 and 1 at a tooth's sides
    beyond = beyond + shorter[tooth] + row.curve * across**2 + row.rounding * place.abs() ** ROUNDING_POWER
    cover = (0.5 - beyond / pixel.clamp_min(EDGE_SOFTNESS)).clamp(0, 1)
    width = GAP_WIDTH + GAP_BLUR * pixel
    depth = row.gaps * (GAP_WIDTH / width) ** GAP_FAINTNESS * (1 - (1 - TOUCHING) * smooth_step(-beyond / GAP_HEIGHT))
    gap = depth * torch.exp(-(((1 - place.abs()) * half / width) ** 2))
    edge = EDGE_SHADE * (1 - smooth_step(-beyond / EDGE_HEIGHT))
    return cover, shades[tooth] * (1 - SIDE_SHADE * place**2) * (1 - gap) * (1 - edge)


def _flesh(colours: torch.Tensor, white: float) -> torch.Tensor:
    """Colours `(B, 3)` of skin or lips whose strongest channel is as strong as the mean of all was."""
    return colours * (colours.mean(1, keepdim=True) / colours.amax(1, keepdim=True).clamp_min(1e-3 * white))


def _lip_edge(landmarks: torch.Tensor, positions: tuple[int, ...], x: torch.Tensor) -> torch.Tensor:
    """Height `(B, h, w)` of the inner edge of a lip at `x` `(B, h, w)`, all of level faces."""
    points = landmarks[:, [INNER_LIPS[0], *(INNER_LIPS[i] for i in positions), INNER_LIPS[10]]]  # (B, 11, 2)
    # The far corner of a turned mouth folds over.
    along, height = points[..., 0].cummax(1).values.contiguous(), points[..., 1]
    return between(along, height, x.flatten(1)).view_as(x)
