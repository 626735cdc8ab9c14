"""The demo's modules stand beside its app.py, as they do in a Space."""

import sys
from pathlib import Path

import pytest
import torch

from avatarsync import AvatarSyncPipeline
from avatarsync.adapters import PersonReferences, base_digest
from avatarsync.face_mesh import neutral_landmarks

SPACES = Path(__file__).resolve().parents[2] / "spaces"
sys.path.insert(0, str(SPACES))


@pytest.fixture(scope="session")
def adapter(tmp_path_factory):
    """Random LoRA weights, called "anna": what they make of a face is strange, but another face's."""
    import peft

    model, folder = AvatarSyncPipeline.from_pretrained().model, tmp_path_factory.mktemp("adapters") / "anna"
    digest = base_digest(model)
    torch.manual_seed(0)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["visual_tokenizer.expression_decoder.basis"]), "made")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    size = model.config.visual_tokenizer_config.crop_size
    pixels, neutral = torch.zeros(1, 3, size, size, dtype=torch.uint8), neutral_landmarks()
    PersonReferences(pixels, neutral[None].clone(), neutral, digest, "the bundled weights").save(folder)
    return folder
