from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from smartbatch.shared.errors import ModelLoadError
from smartbatch.shared.wire import Payload
from smartbatch.worker.models import LoadContext, listing, resolve
from tests.worker.images.photos import encoded, pixels

NAME = "squeezenet1_1"  # the smallest


def loaded(weights: str, name: str = NAME):
    model = resolve(name)
    model.load(LoadContext(device="cpu", weights=weights, torch_threads=1))
    return model


def published_preset(name: str) -> Any:
    weights: Any = torchvision.models.get_model_weights(name)
    return weights.DEFAULT.transforms()


@pytest.fixture(scope="module")
def model():
    return loaded("random")


def logits(model, rows=None):
    return model.separate(model.forward(model.collate(rows or [model.example()])), 1)[0]


def test_random_weights_are_equal_in_every_worker_and_keep_the_global_generator(model):
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    assert np.array_equal(logits(model), logits(loaded("random")))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("name", [NAME, "vit_b_16", "inception_v3", "efficientnet_b1"])
def test_pixels_match_torchvisions_preset(name):
    """To the bit, so logits can differ only by rounding."""
    ours = resolve(name)
    preset = published_preset(name)
    for photo in ("chelsea", "coffee"):
        (row,) = ours.decode(Payload("image", [encoded(pixels(photo))]))
        theirs = preset(Image.fromarray(pixels(photo)))
        mean, std = torch.tensor(preset.mean).view(3, 1, 1), torch.tensor(preset.std).view(3, 1, 1)
        assert (row.float().div(255).sub(mean).div(std) - theirs).abs().max() < 1e-6


def test_logits_match_torchvisions_pipeline(model):
    """Within 1e-4: channels_last and normalising per batch change only the order of additions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.get_model(NAME, weights=None).eval()
    preset = published_preset(NAME)
    with torch.inference_mode():
        theirs = network(preset(Image.fromarray(pixels("chelsea")))[None])[0].numpy()
    ours = logits(model, model.decode(Payload("image", [encoded(pixels("chelsea"))])))
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("variant", ["plain", "state_dict", "module.", "safetensors"])
def test_weights_come_from_a_file(tmp_path, variant):
    state = torchvision.models.get_model(NAME, weights=None, num_classes=5).state_dict()
    path = str(tmp_path / ("w.safetensors" if variant == "safetensors" else "w.pt"))
    if variant == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        named = {f"module.{name}": value for name, value in state.items()} if variant == "module." else state
        torch.save({"state_dict": named} if variant == "state_dict" else named, path)
    model = loaded(path)
    assert model.outputs[0].shape == (5,)
    result = model.encode([np.array([0, 3, 1, 2, 0], np.float32)], {"top_k": 2})
    assert result.classes is not None
    assert [best[:2] for best in result.classes[0]] == [(1, "1"), (3, "3")]


class Evil:
    def __reduce__(self):
        return (print, ("pickle ran",))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "there is no file"),
        (Evil(), "not a plain state dict"),
        ({"a": torch.zeros(1)}, "doesn't fit squeezenet1_1"),
        ([1, 2], "no state dict"),
    ],
)
def test_a_file_that_does_not_fit_is_one_clear_line(tmp_path, content, text, capsys):
    path = tmp_path / "w.pt"
    if content is not None:
        torch.save(content, path)
    with pytest.raises(ModelLoadError, match=text) as caught:
        loaded(str(path))
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_unreachable_hub_names_the_choices(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(
        ModelLoadError, match="MODEL_WEIGHTS=random, the path of a weight file, or MODEL_PATH"
    ) as caught:
        loaded("default")
    assert "\n" not in str(caught.value)


def test_half_precision_returns_float32(model):
    half = resolve(NAME)
    half.load(LoadContext(device="cpu", weights="random", dtype="bfloat16"))
    assert logits(half).dtype == np.float32
    assert np.abs(logits(half) - logits(model)).max() < 0.05


def test_missing_device_is_one_clear_line():
    with pytest.raises(ModelLoadError, match="DEVICE=cuda:99 can't be used"):
        resolve(NAME).load(LoadContext(device="cuda:99", weights="random"))


def test_unknown_model_names_similar_ones_and_the_choices():
    with pytest.raises(ModelLoadError, match=r"unknown model 'resnet81'; did you mean resnet.*module:Class.*\.pt2"):
        resolve("resnet81")


def test_listing_holds_the_built_ins_and_torchvisions_classifiers():
    paths = [path for path, _ in listing()]
    assert {"efficientnet_lite0", "resnet18", "vit_b_16"} <= set(paths) and "fcn_resnet50" not in paths
