import pytest
import torch

from avatarsync.attention_masks import ROWS_PER_UNIT, text_frame_mask, unit_reach, unit_row_visibility, unit_visibility

MODES = ["full", "causal", "limited_history", "one_to_one", "window"]
T, K = 4, 3


def strings(mask):
    return ["".join(".x"[int(value)] for value in row) for row in mask.tolist()]


@pytest.mark.parametrize(
    "mode, expected",
    [
        ("full", ["xxxx", "xxxx", "xxxx", "xxxx"]),
        ("causal", ["x...", "xx..", "xxx.", "xxxx"]),
        ("limited_history", ["x...", "xx..", ".xx.", "..xx"]),
        ("one_to_one", ["x...", ".x..", "..x.", "...x"]),
        ("window", ["xx..", "xxx.", "xxxx", ".xxx"]),
    ],
)
def test_units_that_a_frame_may_read(mode, expected):
    assert strings(unit_visibility(mode, T, past_units=2, future_units=1)) == expected


def test_a_window_contains_the_narrower_modes():
    for mode, window in (("limited_history", (1, 0)), ("one_to_one", (0, 0))):
        assert unit_reach(mode, 9, 9) == window
        assert torch.equal(unit_visibility(mode, 6, 9, 9), unit_visibility("window", 6, *window))
    assert unit_reach("full", 2, 1) is unit_reach("causal", 2, 1) is None


@pytest.mark.parametrize("mode", MODES)
def test_unit_rows_open_no_detour(mode):
    # What a frame reads through any number of layers is what it reads directly.
    direct = unit_visibility(mode, T, 2, 1)
    through_units = (direct.float() @ unit_row_visibility(mode, T).float()) > 0
    assert torch.equal(through_units, direct)


def test_the_whole_mask_of_two_units_and_two_tokens():
    mask = text_frame_mask("causal", num_units=2, num_tokens=2, past_units=0, future_units=0, frame_context="previous")
    expected = [
        "xxx... .. ....",
        "xxx... .. ....",
        "xxx... .. ....",
        "xxxxxx .. ....",
        "xxxxxx .. ....",
        "xxxxxx .. ....",
        "...... xx ....",
        "...... xx ....",
        "xxx... xx x...",
        "xxx... xx xx..",
        "xxxxxx xx x.x.",
        "xxxxxx xx xxxx",
    ]
    assert strings(mask) == [row.replace(" ", "") for row in expected]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("frame_context", ["none", "previous"])
def test_what_reaches_a_frame_through_many_layers(mode, frame_context):
    mask = text_frame_mask(mode, T, K, 2, 1, frame_context)
    reach = torch.linalg.matrix_power(mask.double(), len(mask)) > 0
    units, frames = ROWS_PER_UNIT * T, ROWS_PER_UNIT * T + K
    # The last row of each frame, and the first row of each unit.
    read = reach[frames + K - 1 :: K, :units:ROWS_PER_UNIT]
    allowed = unit_visibility(mode, T, 2, 1)
    assert torch.equal(read, allowed if frame_context == "none" else allowed.cumsum(0) > 0)
    # Nothing but frames reads frames, and no token is read before it is emitted.
    assert not mask[:frames, frames:].any()
    rows = torch.arange(T * K) % K
    assert not (reach[frames:, frames:] & (rows.unsqueeze(0) > rows.unsqueeze(1))).any()
    assert reach[frames:, units:frames].all()


@pytest.mark.parametrize("mode", MODES)
def test_padding_is_read_by_padding_alone(mode):
    unit_mask = torch.tensor([[True] * T, [True] * (T - 2) + [False] * 2])
    mask = text_frame_mask(mode, T, K, 2, 1, "previous", unit_mask)
    assert torch.equal(mask[0], text_frame_mask(mode, T, K, 2, 1, "previous"))
    real = torch.ones(len(mask[1]), dtype=torch.bool)
    real[ROWS_PER_UNIT * (T - 2) : ROWS_PER_UNIT * T] = False
    real[-2 * K :] = False
    assert not mask[1][real][:, ~real].any()
    assert torch.equal(mask[1][real][:, real], text_frame_mask(mode, T - 2, K, 2, 1, "previous"))
    assert mask.any(-1).all()  # no row without anything to read
