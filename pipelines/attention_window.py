"""A narrower attention window at inference: how many phonemes around its own a keyframe is shaped by."""

import copy
import operator

from avatarsync.errors import InvalidArgumentError
from avatarsync.modeling_avatarsync import AvatarSyncModel


def with_attention_window(model: AvatarSyncModel, window: tuple[int, int]) -> AvatarSyncModel:
    """The same model, weights shared, whose keyframes read fewer units before and after their own (Appendix A.4).

    Fewer units make each mouth shape depend on its own phoneme alone, more let neighbours colour it (coarticulation).
    Wider than in training is refused: the weights have never seen such distances.

    Args:
        window: units before and after.

    Raises:
        InvalidArgumentError: wider than the model was trained for, or a model whose attention is unbounded.
    """
    trained = model.keyframe_generator.reach
    if trained is None:
        mode = model.keyframe_generator.config.attention_mode
        raise InvalidArgumentError(f"attention_window= needs a model of bounded attention, this one is {mode!r}")
    try:
        past_units, future_units = (operator.index(units) for units in window)
    except (TypeError, ValueError):
        past_units = future_units = -1
    if not (0 <= past_units <= trained[0] and 0 <= future_units <= trained[1]):
        raise InvalidArgumentError(
            f"attention_window is {window!r}: give two whole numbers, phonemes before (0 to {trained[0]}) and after "
            f"(0 to {trained[1]})"
        )
    if (past_units, future_units) == trained:
        return model
    generator = copy.copy(model.keyframe_generator)
    generator.reach = (past_units, future_units)
    narrowed = copy.copy(model)
    # A module's copy shares the table of its children: here it must not, or the model itself would be narrowed.
    narrowed._modules = {**model._modules, "keyframe_generator": generator}
    return narrowed
