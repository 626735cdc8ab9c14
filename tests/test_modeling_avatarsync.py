import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, pipeline

from avatarsync import (
    AvatarSyncConfig,
    AvatarSyncModel,
    AvatarSyncPipeline,
    FaceAlignerConfig,
    InterpolationConfig,
    KeyframeGeneratorConfig,
    VisualTokenizerConfig,
    face_mesh,
    modeling_visual_tokenizer,
)
from avatarsync.errors import ModelLoadError
from avatarsync.modeling_sync_expert import SyncExpertConfig, SyncExpertModel


def tiny_config(**keyframes):
    return AvatarSyncConfig(
        face_aligner_config=FaceAlignerConfig(detector_size=64, detector_width=4, landmark_size=64, landmark_width=4),
        visual_tokenizer_config=VisualTokenizerConfig(
            crop_size=64, encoder_width=8, motion_width=32, motion_rank=8, painter_size=32, painter_width=8
        ),
        keyframe_generator_config=KeyframeGeneratorConfig(hidden_size=32, num_layers=2, num_heads=2, **keyframes),
        interpolation_config=InterpolationConfig(hidden_size=32, num_layers=1, head_size=16),
    )


@pytest.fixture
def clip():
    torch.manual_seed(2)
    durations = torch.rand(90) * 0.15 + 0.05
    ends = durations.cumsum(0)
    centres = (ends - durations / 2).double().numpy()
    return torch.randint(24, (90,)), durations, centres, np.arange(int(ends[-1] * 25)) / 25


def reference_inputs():
    torch.manual_seed(3)
    return torch.rand(1, 3, 64, 64) * 2 - 1, face_mesh.neutral_landmarks()[None]


def make(**keyframes):
    torch.manual_seed(0)
    return AvatarSyncModel(tiny_config(**keyframes)).eval()


@pytest.mark.parametrize("mode", ["window", "one_to_one", "limited_history", "causal", "full"])
def test_every_frame_gets_codes_in_every_mode(mode, clip):
    model = make(attention_mode=mode)
    with torch.no_grad():
        reference = model.visual_tokenizer.prepare_reference(*reference_inputs())
        codes = torch.cat(list(model.generate_codes(*clip, reference)))
    assert codes.shape == (len(clip[3]), 16, 10)
    assert torch.isfinite(codes).all()


def test_frames_on_keyframes_are_the_keyframes(clip):
    unit_ids, durations, centres, _ = clip
    model = make()
    with torch.no_grad():
        reference = model.visual_tokenizer.prepare_reference(*reference_inputs())
        keyframes = torch.cat(list(model.generate_keyframes(unit_ids, durations, reference)))
        codes = torch.cat(list(model.generate_codes(unit_ids, durations, centres, centres, reference)))
    assert torch.allclose(codes, keyframes, atol=1e-5)


def test_sampling_repeats_with_its_seed(clip):
    model = make()
    with torch.no_grad():
        reference = model.visual_tokenizer.prepare_reference(*reference_inputs())
        runs = [
            torch.cat(list(model.generate_codes(*clip, reference, 1.0, torch.Generator().manual_seed(seed))))
            for seed in (1, 1, 2)
        ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_the_composite_survives_saving(clip, tmp_path, monkeypatch):
    # bfloat16 rounds in its last digit where weights lie at other addresses.
    monkeypatch.setattr(modeling_visual_tokenizer, "has_fast_bfloat16", lambda: False)
    model = make()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, AvatarSyncModel)
    with torch.no_grad():
        expected, out = (one(*reference_inputs(), *clip) for one in (model, loaded))
    assert torch.allclose(out.landmarks, expected.landmarks, atol=1e-5)
    assert torch.allclose(out.pixels, expected.pixels, atol=1e-4)


def test_weights_that_are_missing_are_refused_however_a_model_is_loaded(tmp_path):
    make().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    save_file({name: value for name, value in weights.items() if "interpolation." not in name}, file, {"format": "pt"})
    for load in (AvatarSyncModel.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises(ModelLoadError, match=r" lacks \d+ of the model's weights, such as interpolation"):
            load(tmp_path)
    with pytest.raises(ModelLoadError, match="lacks"):
        pipeline("talking-head", model=str(tmp_path))
    save_file(weights, file, {"format": "pt"})
    model, report = AvatarSyncModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(model, AvatarSyncModel) and not report["missing_keys"]


@pytest.mark.parametrize("stage", ["face_aligner", "visual_tokenizer", "keyframe_generator", "interpolation", "sync"])
def test_stages_are_loaded_by_transformers_and_are_no_whole_model(stage, tmp_path):
    model = SyncExpertModel(SyncExpertConfig()) if stage == "sync" else getattr(make(), stage)
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    for load in (
        AvatarSyncModel.from_pretrained,
        AvatarSyncPipeline.from_pretrained,
        lambda folder: pipeline("talking-head", model=str(folder)),
    ):
        with pytest.raises(ModelLoadError, match=f"of type '{model.config.model_type}', not a whole avatarsync: give"):
            load(tmp_path)


def test_stages_that_disagree_are_refused():
    with pytest.raises(ValueError, match="num_units"):
        AvatarSyncConfig(interpolation_config=InterpolationConfig(num_units=7))


def test_the_presets():
    embedded = AvatarSyncModel(AvatarSyncConfig.embedded())
    assert sum(parameter.numel() for parameter in embedded.parameters()) < 12e6
    with torch.device("meta"):
        full = AvatarSyncModel(AvatarSyncConfig.full())
    assert sum(parameter.numel() for parameter in full.parameters()) > 50e6
    assert full.config.visual_tokenizer_config.num_tokens == 64
