"""The recogniser as a model: what a frame depends on, what its loss asks for, and its weights on disk."""

import torch

from avatarsync.modeling_phoneme_recognizer import PhonemeRecognizerConfig, PhonemeRecognizerModel
from avatarsync.phonemes.log_mel import NUM_BANDS


def tiny(phonemes=("sil", "p", "m", "a"), **sizes) -> PhonemeRecognizerModel:
    torch.manual_seed(0)
    return PhonemeRecognizerModel(PhonemeRecognizerConfig(phonemes, hidden_size=16, **sizes)).eval()


def test_a_frame_depends_on_those_within_reach_and_on_no_other():
    model = tiny(dilations=(1, 2, 3))
    bands = torch.randn(1, 41, NUM_BANDS, requires_grad=True)
    model(bands).logits[0, 20].sum().backward()
    felt = bands.grad[0].abs().sum(1).nonzero().flatten()
    assert model.config.reach == 7 and (felt[0], felt[-1]) == (13, 27)


def test_what_looks_alike_is_a_smaller_mistake():
    model, labels = tiny(), torch.ones(1, 5, dtype=torch.long)  # /p/

    def loss(heard: int) -> float:
        logits = torch.zeros(1, 5, 4)
        logits[..., heard] = 5.0
        return model._loss(logits, labels).item()

    assert loss(1) < loss(2) < loss(3)  # /p/, /m/, /a/
    assert model(torch.randn(1, 5, NUM_BANDS), labels).loss > 0
    assert model(torch.randn(2, 5, NUM_BANDS)).loss is None


def test_weights_and_what_they_name_survive_on_disk(tmp_path):
    model, bands = tiny(log_priors=(-1.0, -2.0, -3.0, -4.0)), torch.randn(2, 9, NUM_BANDS)
    model.save_pretrained(tmp_path)
    again = PhonemeRecognizerModel.from_pretrained(tmp_path)
    assert torch.equal(again(bands).logits, model(bands).logits)
    assert (again.config.phonemes, again.config.log_priors) == (("sil", "p", "m", "a"), (-1.0, -2.0, -3.0, -4.0))
    assert again.config.dilations == (1, 2, 4, 8, 16, 8)
