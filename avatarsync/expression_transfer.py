"""Put an expression of the neutral face's space on any face, by its own proportions.

An *expression* is a full set of landmarks `(468, 2)` of the neutral face (`face_mesh.neutral_landmarks`) as it would
look when it makes that expression. A reference face has landmarks X and, in the same neutral space, its own present
expression R. Going to expression D then means, in fractions of the crop's side:

- lips and mouth corners move from where the reference has them by D - R, as wide as the reference's own mouth is;
- the gap between the inner lips becomes D's, whatever the reference's was: a broad smile keeps its shape and closes;
- the lips' thickness stays the reference's own and changes as from R to D; lips of a smile that shuts are pressed;
- where D is foretold from speech, both halves do the same, corners move farther than D says, rounded lips are
  pursed, smiles give way to them, and lips do what phonemes ask for (`ExpressionTransfer.forward`);
- eyelids close by the share that D's eye is more closed than R's, whatever the size of the eye, and stay as they are
  where D is foretold;
- the line of the jaw goes down with the chin, and where D is foretold the skin beside a face's contour goes with it;
- everything else moves by D - R, fading out above the eyes and towards the ears, and follows the lips where it lies
  near them.

This is what lets a decoder trained on one speaker's motion move faces it has never seen: the codes say D alone. With
D = R and lips that touch, every landmark stays where it is.
"""

import torch
from torch import nn

from . import face_mesh
from .face_mesh import FACE_OVAL, INNER_LIPS, LIP_RINGS, OUTER_LIPS
from .lip_edges import LOWER, UPPER, closing_share, lip_gaps, mouth_width
from .mirrored_landmarks import MIRRORED
from .smooth_step import smooth_step

WIDTH_RANGE = (0.8, 1.2)  # mouth width relative to the neutral face's
THICKNESS_RANGE = (0.5, 1.6)  # lip thickness relative to the neutral face's
# What is foretold is the mean of what may be seen and moves less: the mouth's width varied 0.8 times as far as in
# training clips, and does 1.1 times since the inner lips go farther (its r there 0.74, now 0.77). The outer lips keep
# to them: with this for both, r is 0.76. Openings are foretold better and need nothing.
FORETOLD_WIDTH_GAIN = 1.7
ARTICULATIONS = (0.25, 2.0)  # how far lips and jaw can be told to go, 1 for as far as foretold
# Lips are rounded where a mouth is narrowed: not at all up to the first share of its width, and fully from the second
# on. Nobody says /u/ with the corners of a broad smile: of what a mouth is wider than most are at rest (of the crop's
# side), so much goes, all of it where it is narrowed by the last share. Sooner, smiles would leap.
NARROWED_SHARE, ROUNDED_SHARE = 0.03, 0.12
RESTING_WIDTH, SMILE_RELEASE, RELEASED_SHARE = 0.297, 0.85, 0.2
# Inner-lip gaps below the first are none, below the second they are narrowed; below the third, where lips are rounded:
# a short /u/ is said with hardly more, and no rounded lips that shut are said to be as open.
SHUT_GAP, NARROWED_GAP, ROUNDED_GAP = 0.006, 0.02, 0.012
# Rounded lips are pursed: they touch from their corners inwards, so that the opening is round, and what is lost in
# width they gain in height. Gaps at the corners are less by the share, and upper lips thicker, all of it where they
# are apart by the third value: shut ones that are drawn thicker than they are look ajar. Lower lips are thickened by
# what expressions say of them; more of it looks like a tongue put out.
ROUNDED_SIDES, ROUNDED_UPPER_HEIGHT, FULLER_GAP = 0.8, 0.3, 0.015
# What phonemes ask for (`articulators.py`): pursed lips are narrower by at least the first share, and their corners
# lose the second of how far a smile has raised them; parted lips are at least so far apart in the middle. Bitten ones
# are so far apart, whatever the expression says; the upper lip makes a share of that, which shows the teeth, and so
# much of the lower one's height is under them. Opened ones are at least that far apart, and a share of what is lacking
# of it is the chin's.
PURSED_SHARE, FLATTENED_SHARE, PARTED_GAP = 0.2, 0.8, 0.024
BITTEN_GAP, BITTEN_UPPER_SHARE, BITTEN_UNDER = 0.018, 0.8, 0.3
OPENED_GAP, OPENED_CHIN_SHARE = 0.055, 0.4
# Lips that touch are seen with a gap of up to the first; it counts as none. From the second on they are open.
TOUCHING_GAP, OPEN_GAP = 0.004, 0.01
# Lips of a smile that shuts are pressed together: so much of their height is lost. At their full height, what is drawn
# of them is wider than the lips that the portrait shows, and a landmarker takes its upper part for a mouth ajar.
PRESSED_SHARE = 0.3
UPPER_LIP_SHARE = 0.35  # of what a gap changes by; the jaw moves the rest
LID_RANGE = (0.0, 1.25)  # openness of an eye relative to the reference's
MIN_RESTING_OPENNESS = 0.6  # a reference's eye counts as at least this open, relative to the neutral face's
LIP_PULL_REACH = 0.10  # how far the lips pull the skin along
LIP_PULL_WIDTH = 0.035
STILL_ABOVE, MOVING_BELOW = 0.27, 0.34  # heights between which motion sets in
# The same for what is foretold: what codes say of the eyes' surroundings would make steady eyes tremble.
FORETOLD_STILL_ABOVE, FORETOLD_MOVING_BELOW = 0.48, 0.60
# A jaw turns about its joints, which lie before the ears, and a face's sides stay where they are; landmarkers slide
# the whole contour along with the chin. Distances from the ears between which motion sets in.
EARS = (234, 454)
STILL_NEAR_EARS, MOVING_OFF_EARS = 0.08, 0.40
# A jaw is one bone: its line goes down with the chin by these shares, from the chin outwards on both sides, and not
# sideways. That explains 100 to 81 % of what training clips do; the rest of what codes say of it made jaws shimmer.
CHIN = 152
JAW_LINE = (
    (148, 377, 0.95), (176, 400, 0.86), (149, 378, 0.76), (150, 379, 0.67), (136, 365, 0.60), (172, 397, 0.55),
    (58, 288, 0.46), (132, 361, 0.37),
)  # fmt: skip
# What is foretold of a chin explains half of what people's do, and goes so much of its way; skin between the lips and
# it goes the less the lower it is. With all of it, chins were no nearer to people's, and r of the mouth's width fell.
FORETOLD_CHIN_SHARE, LIP_EDGE = 0.75, 17
# Skin beside the contour goes with it, all of it up to the first distance from it, none of it from the second on, with
# the points about the nearest one of the contour. Left to itself, what pursed lips draw inwards came past a contour
# that stays, and notched the cheeks.
CONTOUR = tuple(FACE_OVAL[FACE_OVAL.index(356) : FACE_OVAL.index(127) + 1])
BESIDE_CONTOUR, CONTOUR_REACH = (0.02, 0.09), 0.03


class ExpressionTransfer(nn.Module):
    """Target landmarks of a reference under an expression. No parameters; differentiable in all inputs."""

    def __init__(self):
        super().__init__()
        neutral = face_mesh.neutral_landmarks()  # (468, 2)
        self.register_buffer("neutral", neutral, persistent=False)
        self.register_buffer("mirrored", torch.tensor(MIRRORED), persistent=False)
        outer = neutral[list(OUTER_LIPS)]
        distance = torch.cdist(neutral, outer)  # (468, 20)
        pull = torch.exp(-((distance / LIP_PULL_WIDTH) ** 2)) + 1e-12
        pull = pull / pull.sum(1, keepdim=True)
        pull = pull * torch.exp(-((distance.min(1, keepdim=True).values / LIP_PULL_REACH) ** 2))
        self.register_buffer("lip_pull", pull, persistent=False)
        to_ears = torch.cdist(neutral, neutral[list(EARS)]).min(1, keepdim=True).values
        off_ears = smooth_step((to_ears - STILL_NEAR_EARS) / (MOVING_OFF_EARS - STILL_NEAR_EARS))
        to_contour = torch.cdist(neutral, neutral[list(CONTOUR)])  # (468, 23)
        nearest, (least, most) = to_contour.min(1, keepdim=True).values, BESIDE_CONTOUR
        beside = smooth_step((most - nearest) / (most - least))
        beside[list(CONTOUR)] = 0.0  # which goes by itself
        near = torch.exp(-(((to_contour - nearest) / CONTOUR_REACH) ** 2))
        self.register_buffer("beside_contour", beside, persistent=False)  # (468, 1)
        self.register_buffer("contour_pull", beside * near / near.sum(1, keepdim=True), persistent=False)
        lip, chin = neutral[[LIP_EDGE, CHIN], 1]
        lower = smooth_step((neutral[:, 1:] - lip) / (chin - lip))
        self.register_buffer("below_lips", lower, persistent=False)  # (468, 1): 0 at their edge, 1 at the chin
        points, shares = [], []
        for right, left, share in JAW_LINE:
            points += [right, left]
            shares += [share, share]
        # Places on the inner lips, from -1 in the right corner to 1 in the left one, and back.
        along = torch.cat([torch.linspace(-1, 1, 11), torch.linspace(1, -1, 11)[1:-1]])
        self.register_buffer("along", along, persistent=False)  # (20,)
        self.register_buffer("jaw_line", torch.tensor(points), persistent=False)
        self.register_buffer("jaw_shares", torch.tensor(shares), persistent=False)
        for name, still_above, moving_below in (
            ("mobility", STILL_ABOVE, MOVING_BELOW),
            ("foretold_mobility", FORETOLD_STILL_ABOVE, FORETOLD_MOVING_BELOW),
        ):
            height = smooth_step((neutral[:, 1:] - still_above) / (moving_below - still_above))
            self.register_buffer(name, height * off_ears, persistent=False)  # (468, 1)

    def forward(
        self,
        reference: torch.Tensor,
        expression: torch.Tensor,
        reference_expression: torch.Tensor,
        foretold: bool = False,
        articulation: float = 1.0,
        lips: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Target landmarks `(B, 468, 2)`.

        Args:
            reference, expression, reference_expression: `(B, 468, 2)` in fractions of the crop's side.
            foretold: the expression was foretold from speech and not seen in a picture. Both halves of the face move
                by the mean of what they do; mouths narrow and widen `FORETOLD_WIDTH_GAIN` as far, and wide ones narrow
                farther to be rounded; rounded lips touch from their corners inwards and get thicker; eyes stay as they
                are (`eyelids` lets them blink).
            articulation: of what is foretold: how far lips and jaw go, 1 as far as foretold. Lips that close do so
                whatever it is.
            lips: `(B, 4)` of what is foretold: how pursed, bitten, parted and opened lips are, see `articulators`; all
                but bitten at least, and bitten whatever the articulation. None: as the expression says.
        """
        if foretold:
            motion = self._evened(expression - reference_expression)
            gaps = lip_gaps(reference_expression + motion)
            expression = reference_expression + articulation * motion
        else:
            gaps, articulation = lip_gaps(expression), 1.0
        mobility = self.foretold_mobility if foretold else self.mobility
        asked = reference.new_zeros(len(reference), 4) if lips is None or not foretold else lips.to(reference)
        motion = expression - reference_expression
        if foretold:
            motion = motion * (1 - (1 - FORETOLD_CHIN_SHARE) * self.below_lips)
            lacking = articulation * (OPENED_GAP * asked[:, 3] - gaps[:, 4]).clamp_min(0)
            drop = OPENED_CHIN_SHARE * lacking[:, None, None] * self.below_lips  # (B, 468, 1)
            motion = motion + drop * motion.new_tensor([0.0, 1.0])
        down = motion[:, CHIN, 1:] * self.jaw_shares  # (B, 16)
        motion = motion.index_copy(1, self.jaw_line, torch.stack([torch.zeros_like(down), down], -1))
        motion = motion * mobility
        if foretold:
            motion = motion + self.contour_pull @ motion[:, list(CONTOUR)] - self.beside_contour * motion
        target = reference + motion
        # (B, 4, 20, 2)
        rings = self._lips(reference, expression, reference_expression, gaps, articulation, foretold, asked)
        # The skin around the mouth follows what the lips do beyond the common motion.
        outer = list(OUTER_LIPS)
        excess = rings[:, 0] - target[:, outer]  # (B, 20, 2)
        target = target + self.lip_pull @ excess
        target = target.index_copy(1, self._index(LIP_RINGS), rings.flatten(1, 2))
        if foretold:
            return target
        for upper, lower in (
            (face_mesh.RIGHT_UPPER_LID, face_mesh.RIGHT_LOWER_LID),
            (face_mesh.LEFT_UPPER_LID, face_mesh.LEFT_LOWER_LID),
        ):
            share = self._eye_openness(expression, reference_expression, upper, lower)
            lids = _upper_lid(reference, target, share, list(upper), list(lower))
            target = target.index_copy(1, self._index([upper]), lids)
        return target

    def _evened(self, motion: torch.Tensor) -> torch.Tensor:
        """The mean of a motion `(B, 468, 2)` and its mirror image."""
        return (motion + motion[:, self.mirrored] * motion.new_tensor([-1.0, 1.0])) / 2

    def _index(self, groups) -> torch.Tensor:
        return torch.tensor([i for group in groups for i in group], device=self.neutral.device)

    def _lips(self, reference, expression, reference_expression, gaps, articulation, foretold, asked):
        """Lip rings `(B, 4, 20, 2)` of the target, never crossing each other, with gaps of those `(B, 9)`, which are
        not articulated yet, and what is asked of them `(B, 4)`."""
        pursed, bitten, parted, opened = asked.unbind(1)
        inner = list(INNER_LIPS)
        own_width, resting_width = mouth_width(reference), mouth_width(reference_expression)
        gain = FORETOLD_WIDTH_GAIN if foretold else 1.0
        across = gain * (own_width / resting_width).clamp(*WIDTH_RANGE)
        across = torch.stack([across, torch.ones_like(across)], -1)[:, None]  # (B, 1, 2)
        target_inner = reference[:, inner] + (expression[:, inner] - reference_expression[:, inner]) * across
        released = rounded = torch.zeros_like(own_width)
        if foretold:
            narrowed = gain * (1 - mouth_width(expression) / resting_width)
            wanted = PURSED_SHARE * articulation
            target_inner, released, rounded = self._rounded(target_inner, own_width, narrowed, pursed, wanted)
        # How far lips are apart is said by the expression alone: a smile that shows its teeth closes, too.
        sides = torch.linspace(-1, 1, len(UPPER), device=gaps.device, dtype=gaps.dtype) ** 2
        gaps = gaps * (1 - ROUNDED_SIDES * rounded[:, None] * sides)
        wanted_gap = articulation * shut(gaps, rounded[:, None])  # (B, 9)
        least = torch.maximum(PARTED_GAP * parted, OPENED_GAP * opened)
        wanted_gap = torch.maximum(wanted_gap, articulation * least[:, None] * (1 - sides))
        bite = BITTEN_GAP * bitten[:, None] * (1 - sides)
        wanted_gap = (1 - bitten[:, None]) * wanted_gap + bite + resting_gap(lip_gaps(reference))
        change = wanted_gap - (target_inner[:, LOWER, 1] - target_inner[:, UPPER, 1])
        push = torch.zeros_like(target_inner[..., 1])
        push[:, UPPER] = -UPPER_LIP_SHARE * (change - bite) - BITTEN_UPPER_SHARE * bite
        push[:, LOWER] = change + push[:, UPPER]
        target_inner = target_inner + torch.stack([torch.zeros_like(push), push], -1)
        height = torch.ones_like(push)
        pressed = closing_share(lip_gaps(reference), wanted_gap)
        # Lips that a smile stretched get back their height.
        height[:, LOWER] = height[:, UPPER] = (1 - PRESSED_SHARE * pressed) / (1 - released)[:, None]
        fuller = rounded * smooth_step(wanted_gap[:, 4] / (articulation * FULLER_GAP))
        height[:, UPPER] *= 1 + ROUNDED_UPPER_HEIGHT * fuller[:, None]
        height[:, LOWER] *= 1 - BITTEN_UNDER * bitten[:, None]
        height = torch.stack([torch.ones_like(height), height], -1)  # (B, 20, 2)
        rings = []
        for ring in LIP_RINGS[:-1]:
            own = reference[:, list(ring)] - reference[:, inner]
            resting = reference_expression[:, list(ring)] - reference_expression[:, inner]
            wanted = expression[:, list(ring)] - expression[:, inner]
            size = (own.norm(dim=-1) / resting.norm(dim=-1).clamp_min(1e-3)).clamp(*THICKNESS_RANGE)
            rings.append(target_inner + (own + (wanted - resting) * size[..., None]) * height)
        return torch.stack([*rings, target_inner], 1)

    def _rounded(self, inner, own_width, narrowed, pursed, wanted):
        """Inner lips `(B, 20, 2)` of a mouth that an expression narrows by shares `(B,)`, as phonemes want it:
        by `wanted` where lips are fully pursed; how far its smile gives way, and how rounded it is, `(B,)` each."""
        lacking = pursed * (wanted - narrowed).clamp_min(0)
        narrower = 1 - lacking / (1 - narrowed).clamp_min(0.1)  # than what it is narrowed to already
        narrowed = narrowed + lacking
        released = smile_release(own_width, narrowed)
        x, y = inner.unbind(-1)
        x = x - (1 - (1 - released) * narrower)[:, None] * (x - x.mean(1, keepdim=True))
        raised = FLATTENED_SHARE * pursed * _raised_corners(inner)
        return torch.stack([x, y + raised[:, None] * self.along**2], -1), released, rounded_share(narrowed)

    def _eye_openness(self, expression, reference_expression, upper, lower) -> torch.Tensor:
        """Share `(B,)` of the reference's own opening that an eye shows under the expression."""
        upper, lower = list(upper), list(lower)

        def opening(landmarks):
            return (landmarks[..., lower, 1] - landmarks[..., upper, 1]).mean(-1)

        resting = torch.maximum(opening(reference_expression), MIN_RESTING_OPENNESS * opening(self.neutral))
        return (opening(expression) / resting).clamp(*LID_RANGE)


def smile_release(width: torch.Tensor, narrowed: torch.Tensor) -> torch.Tensor:
    """The share `(B,)` of its width by which a mouth gives way to rounding, beyond what the expression says.

    Args:
        width: `(B,)`, of the reference's mouth, of the crop's side.
        narrowed: `(B,)`, the share of its width by which the expression narrows a mouth.
    """
    smile = (1 - RESTING_WIDTH / width).clamp_min(0)
    return SMILE_RELEASE * smile * smooth_step(narrowed / RELEASED_SHARE)


def rounded_share(narrowed: torch.Tensor) -> torch.Tensor:
    """How rounded lips are, 0 to 1, in a mouth that is narrowed by a share of its width."""
    return smooth_step((narrowed - NARROWED_SHARE) / (ROUNDED_SHARE - NARROWED_SHARE))


def shut(gap: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """Gaps of which those that overlap or all but touch are shut, smoothly: a slit of a pixel would flicker.

    Args:
        gap: `(B, N)`.
        rounded: `(B, 1)`, see `rounded_share`.
    """
    open_from = torch.lerp(torch.full_like(rounded, NARROWED_GAP), torch.full_like(rounded, ROUNDED_GAP), rounded)
    return gap * smooth_step((gap - SHUT_GAP) / (open_from - SHUT_GAP))


def resting_gap(gap: torch.Tensor) -> torch.Tensor:
    """What a reference's gap of touching lips measures; nothing for lips that are open."""
    open_share = ((gap - TOUCHING_GAP) / (OPEN_GAP - TOUCHING_GAP)).clamp(0, 1)
    return gap * (1 - open_share)


def _raised_corners(inner: torch.Tensor) -> torch.Tensor:
    """How much higher than their middle the corners of inner lips `(B, 20, 2)` are: `(B,)`, 0 where they are not."""
    height = inner[..., 1]
    return ((height[:, 5] + height[:, 15] - height[:, 0] - height[:, 10]) / 2).clamp_min(0)


def _upper_lid(reference, target, share, upper, lower):
    """Upper eyelid `(B, 7, 2)`: a share `(B,)` of the reference's own opening above the target's lower lid."""
    opening = (reference[:, lower, 1] - reference[:, upper, 1]).clamp_min(0)
    height = target[:, lower, 1] - opening * share[:, None]
    return torch.stack([reference[:, upper, 0], height], -1)
