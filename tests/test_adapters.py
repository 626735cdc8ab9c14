"""Adapters of a person: on disk, checked against the base, loaded, changed and taken out again."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from skimage.data import astronaut
from transformers import pipeline

from avatarsync import AvatarSyncModel, AvatarSyncPipeline
from avatarsync.adapters import (
    CONFIG_FILE,
    LANDMARKS_SAY,
    REFERENCES_FILE,
    WEIGHTS_FILE,
    PersonReferences,
    base_digest,
    find_adapter,
    require_peft,
)
from avatarsync.errors import AdapterError, MissingDependencyError
from avatarsync.face_mesh import neutral_landmarks
from avatarsync.rendering import FaceRenderer

peft = pytest.importorskip("peft")

LAYERS = [
    "visual_tokenizer.painter.head",
    "visual_tokenizer.expression_decoder.basis",
    "keyframe_generator.head",
    "interpolation.correction",
]


def make_adapter(model: AvatarSyncModel, folder, seed: int, scale: float = 0.1):
    """An adapter with random weights: what it makes of a face is strange, but another face's."""
    digest = base_digest(model)
    torch.manual_seed(seed)
    model.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=LAYERS), "made")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=scale)
    model.save_pretrained(folder)
    model.remove_adapters()
    size = model.config.visual_tokenizer_config.crop_size
    neutral = neutral_landmarks()
    pixels = torch.randint(0, 255, (2, 3, size, size), dtype=torch.uint8)
    PersonReferences(pixels, neutral.expand(2, -1, -1).clone(), neutral, digest, "a test's base", speaking=1).save(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def talk():
    return AvatarSyncPipeline.from_pretrained()


def test_a_peft_that_transformers_refuses_is_told_with_what_to_install(monkeypatch):
    require_peft()
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "99.0")
    with pytest.raises(MissingDependencyError, match=rf"peft 99.0 .*{peft.__version__}.*pip install"):
        require_peft()


@pytest.fixture(scope="module")
def adapters(talk, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(talk.model, folder / name, seed) for seed, name in enumerate(("anna", "bert"))]


@pytest.fixture
def clean(talk):
    yield
    if talk.identities:
        talk.unload_identity()


@pytest.fixture(scope="module")
def portrait():
    return np.ascontiguousarray(astronaut()[0:256, 96:352])


@pytest.fixture(scope="module")
def speech(talk):
    return talk.speak("Mama.")


def draw(talk, portrait, speech):
    return np.stack(list(talk.stream(portrait, speech=speech, fps=10, blink=False)))


def test_a_persons_mouth_is_painted_however_large_the_face(talk, adapters, portrait, speech, clean, monkeypatch):
    """Drawn teeth are nobody's; the painter of an identity knows that person's."""
    made = []

    class Renderer(FaceRenderer):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self.mouth.drawn)

    monkeypatch.setattr("avatarsync.pipelines.talking_head.FaceRenderer", Renderer)
    large = np.kron(portrait, np.ones((2, 2, 1), np.uint8))
    talk.stream(large, speech=speech)
    talk.load_identity(adapters[0], name="anna")
    talk.stream(large, speech=speech)
    talk.set_identity(None)
    talk.stream(large, speech=speech)
    assert made == [1.0, 0.0, 1.0]


def test_identities_speak_differently_and_unloading_brings_the_base_back(talk, adapters, portrait, speech, clean):
    base = draw(talk, portrait, speech)
    digest = base_digest(talk.model)
    talk.load_identity(adapters[0], name="anna")
    anna = draw(talk, portrait, speech)
    talk.load_identity(adapters[1], name="bert")
    assert talk.identity == "bert"
    bert = draw(talk, portrait, speech)
    assert not np.array_equal(base, anna) and not np.array_equal(anna, bert)
    talk.set_identity("anna")
    assert np.array_equal(draw(talk, portrait, speech), anna)
    talk.set_identity(None)
    assert np.array_equal(draw(talk, portrait, speech), base)
    talk.unload_identity()
    assert talk.identity is None and not talk.identities
    assert np.array_equal(draw(talk, portrait, speech), base)
    assert base_digest(talk.model) == digest
    assert not any("lora" in name for name, _ in talk.model.named_modules())


def test_one_of_two_identities_is_unloaded(talk, adapters, clean, caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    talk.load_identity(adapters[0], name="anna")
    talk.load_identity(adapters[1], name="bert")
    logger.removeHandler(caplog.handler)
    assert "MISSING" not in caplog.text  # which transformers calls anna's weights now
    talk.unload_identity("anna")
    assert talk.identity == "bert" and list(talk.identities) == ["bert"]
    with pytest.raises(AdapterError, match="no identity 'anna' is loaded"):
        talk.set_identity("anna")
    talk.load_identity(adapters[0], name="anna")
    talk.unload_identity("anna")
    assert talk.identity is None  # who speaks is not left to chance


def test_an_adapter_has_no_share_in_the_base_digest(talk, adapters, clean):
    digest = base_digest(talk.model)
    talk.load_identity(adapters[0])
    assert base_digest(talk.model) == digest


def test_references_say_what_a_portrait_shows(talk, adapters, clean):
    """A portrait that is the person's resting face comes nearer to the neutral expression."""
    talk.load_identity(adapters[0])
    tokenizer = talk.model.visual_tokenizer
    size = tokenizer.config.crop_size
    with torch.inference_mode():
        reference = tokenizer.prepare_reference(torch.zeros(1, 3, size, size), neutral_landmarks()[None])
        person = talk.personalise(reference)
        expected = (1 - LANDMARKS_SAY) * reference.expression[0] + LANDMARKS_SAY * neutral_landmarks()
        assert torch.allclose(person.expression[0], expected, atol=1e-5)
        assert not torch.allclose(reference.expression, person.expression, atol=1e-3)
        assert torch.equal(person.codes[0], talk.identities["default"].codes(tokenizer)[1])
        talk.set_identity(None)
        assert talk.personalise(reference) is reference


def test_a_model_that_wore_an_adapter_is_saved_as_it_was(talk, adapters, tmp_path, clean):
    before = {name: value.clone() for name, value in talk.model.state_dict().items()}
    talk.load_identity(adapters[0], name="anna")
    talk.unload_identity()
    talk.save_pretrained(tmp_path / "pipeline")
    talk.model.load_adapter(adapters[0])
    talk.model.save_pretrained(tmp_path / "adapter")
    assert load_file(tmp_path / "adapter" / WEIGHTS_FILE).keys() == load_file(adapters[0] / WEIGHTS_FILE).keys()
    talk.model.remove_adapters()
    for after in (
        AvatarSyncPipeline.from_pretrained(tmp_path / "pipeline").model,
        AvatarSyncModel.from_pretrained(tmp_path / "pipeline"),
    ):
        weights = after.state_dict()
        assert weights.keys() == before.keys()
        assert all(torch.equal(weights[name], value) for name, value in before.items())


@pytest.mark.parametrize("speaking", [1, None])
def test_a_merged_model_is_saved_and_loaded_as_that_person(adapters, portrait, speech, tmp_path, speaking):
    adapter = shutil.copytree(adapters[0], tmp_path / "adapter")
    references = PersonReferences.load(adapter)
    references.speaking = speaking
    references.save(adapter)
    large = np.kron(portrait, np.ones((2, 2, 1), np.uint8))  # whose mouth would be drawn, were it anybody's
    talk = AvatarSyncPipeline.from_pretrained()
    base = draw(talk, large, speech)
    talk.load_identity(adapter, name="anna")
    worn = draw(talk, large, speech).astype(int)
    talk.model.merge_and_unload()
    assert not any("lora" in name for name, _ in talk.model.named_modules())
    merged = draw(talk, large, speech)
    talk.save_pretrained(tmp_path / "merged")
    loaded = pipeline("talking-head", model=str(tmp_path / "merged"))
    assert np.array_equal(draw(loaded, large, speech), merged)
    assert np.abs(worn - base).max() > 50
    assert np.abs(worn - merged).max() <= 4 and np.abs(worn - merged).mean() < 0.01


def test_merging_leaves_no_identity_behind(adapters):
    talk = AvatarSyncPipeline.from_pretrained()
    talk.load_identity(adapters[0], name="anna")
    talk.load_identity(adapters[1], name="bert")
    talk.set_identity(None)
    with pytest.raises(AdapterError, match=r"no adapter is active: set_identity\(NAME\)"):
        talk.model.merge_and_unload()
    talk.set_identity("anna")
    talk.model.set_adapter(["anna", "bert"])
    with pytest.raises(AdapterError, match=r"several people are active \(anna, bert\)"):
        talk.model.merge_and_unload()
    talk.set_identity("anna")
    talk.model.merge_and_unload()
    assert talk.identity is None and talk.identities == {} and talk.knows_speaker
    talk.set_identity(None)
    with pytest.raises(AdapterError, match="made for the base"):  # the weights are others now
        talk.load_identity(adapters[1], name="bert")


def test_adapters_that_are_taken_out_of_the_model_are_identities_no_more(talk, adapters, clean):
    talk.load_identity(adapters[0], name="anna")
    talk.load_identity(adapters[1], name="bert")
    with pytest.warns(UserWarning, match="bert was active"):
        talk.model.delete_adapter("bert")
    assert talk.identity == "anna" and list(talk.identities) == ["anna"]  # whom peft goes on with
    talk.model.disable_adapters()
    assert talk.identity is None
    talk.set_identity("anna")
    talk.model.remove_adapters()
    assert talk.identity is None and not talk.identities and not talk.knows_speaker
    talk.set_identity(None)


def test_load_adapter_of_transformers_and_of_peft_agree(talk, adapters):
    codes = torch.sign(torch.randn(1, *talk.model._code_shape(), generator=torch.Generator().manual_seed(0)))
    ours = AvatarSyncModel.from_pretrained(AvatarSyncPipeline.from_pretrained().model.name_or_path)
    base = ours.visual_tokenizer.expression(codes)
    ours.load_adapter(str(adapters[0]))
    adapted = ours.visual_tokenizer.expression(codes)
    assert not torch.allclose(base, adapted, atol=1e-4)
    theirs = AvatarSyncModel.from_pretrained(ours.name_or_path)
    theirs = peft.PeftModel.from_pretrained(theirs, str(adapters[0])).merge_and_unload()
    assert torch.allclose(theirs.visual_tokenizer.expression(codes), adapted, atol=1e-5)


def test_another_base_is_refused_by_its_digest(adapters):
    talk = AvatarSyncPipeline.from_pretrained()
    with torch.no_grad():
        talk.model.visual_tokenizer.painter.head.bias[0] += 1
    with pytest.raises(AdapterError, match=r"made for the base a test's base with the digest \w+.*fine-tune again"):
        talk.load_identity(adapters[0])
    with pytest.raises(AdapterError, match="made for the base"):
        talk.model.load_adapter(adapters[0])
    assert not talk.identities and talk.identity is None


def test_another_architecture_is_refused_by_its_shapes(talk, adapters, tmp_path):
    folder = shutil.copytree(adapters[0], tmp_path / "wide")
    weights = load_file(folder / WEIGHTS_FILE)
    name = next(key for key in weights if "painter.head.lora_A" in key)
    weights[name] = torch.zeros(2, weights[name].shape[1] + 8, 3, 3)
    save_file(weights, folder / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match=r"another base \(visual_tokenizer.painter.head: the layer there"):
        talk.load_identity(folder)
    weights = {key.replace("painter.head", "painter.tail"): value for key, value in weights.items()}
    save_file(weights, folder / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match="painter.tail: no such layer"):
        talk.load_identity(folder)
    assert not talk.identities


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), "holds no adapter_model.safetensors"),
        (lambda folder: (folder / WEIGHTS_FILE).write_bytes(b"no"), "cannot be read"),
        (lambda folder: (folder / REFERENCES_FILE).unlink(), "no adapter of a person"),
        (lambda folder: (folder / REFERENCES_FILE).write_bytes(b"no"), "no adapter of a person"),
        (lambda folder: (folder / CONFIG_FILE).write_text(json.dumps({"peft_type": "IA3"})), "holds a IA3 adapter"),
        (lambda folder: (folder / CONFIG_FILE).write_text("{"), "cannot be read"),
        (lambda folder: save_file({}, folder / REFERENCES_FILE, {"version": "0"}), "has version 0, this code reads 1"),
    ],
)
def test_damaged_adapters_are_refused(talk, adapters, tmp_path, spoil, told):
    folder = shutil.copytree(adapters[0], tmp_path / "damaged")
    spoil(folder)
    with pytest.raises(AdapterError, match=told):
        talk.load_identity(folder)
    assert not talk.identities


def test_names_and_places_that_cannot_be(talk, adapters, tmp_path, clean):
    with pytest.raises(AdapterError, match="there is no folder"):
        talk.load_identity(tmp_path / "nowhere")
    with pytest.raises(AdapterError, match="cannot be called 'a.b'"):
        talk.load_identity(adapters[0], name="a.b")
    with pytest.raises(AdapterError, match="no identity 'anna' is loaded"):
        talk.set_identity("anna")
    with pytest.raises(AdapterError, match="no identity to unload"):
        talk.unload_identity()
    talk.load_identity(adapters[0], name="anna")
    with pytest.raises(AdapterError, match="loaded already"):
        talk.load_identity(adapters[1], name="anna")
    with pytest.raises(AdapterError, match="unload_identity"):
        talk.save_pretrained(tmp_path / "model")


def test_the_hub_is_asked_for_what_is_no_folder(monkeypatch, adapters):
    asked = {}

    def download(name, **options):
        asked.update(name=name, **options)
        return str(adapters[0])

    monkeypatch.setattr("avatarsync.adapters.snapshot_download", download)
    assert find_adapter("me/anna", revision="main") == adapters[0]
    assert asked["name"] == "me/anna" and asked["revision"] == "main"
    assert set(asked["allow_patterns"]) == {CONFIG_FILE, WEIGHTS_FILE, REFERENCES_FILE}
