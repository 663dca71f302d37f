"""JPEGs that the device decodes. The CPU stands in for one: torchvision decodes batches there by the same call."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.wire import Payload
from smartbatch.worker.core.model import LoadContext
from smartbatch.worker.images import device_jpeg
from smartbatch.worker.images.decode import Preset, decode_image
from smartbatch.worker.images.device_jpeg import DeviceJpegs
from smartbatch.worker.images.header import read_header
from smartbatch.worker.models import resolve
from smartbatch.worker.models.classifier import Classifier
from smartbatch.worker.models.efficientnet import PRESET as SQUASHED
from tests.worker.images.photos import encoded

# torchvision 0.29 points to TorchCodec, which is another package.
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")

CPU = torch.device("cpu")
PHOTOS = sorted((Path(__file__).parents[3] / "loadtest" / "data").glob("*.jpg"))
PRESETS = {"resnet18": Preset(256, 224), "squashed": SQUASHED}
LIMIT = 50_000_000


def rows_of(*files: bytes) -> list[torch.Tensor]:
    return [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_photos_of_several_sizes_come_out_as_the_cpu_decodes_them(preset: Preset) -> None:
    files = [photo.read_bytes() for photo in PHOTOS]
    sizes = {(header.width, header.height) for header in map(read_header, files) if header}
    assert len(sizes) == len(files) >= 3
    batch = DeviceJpegs(CPU, preset).pixels(rows_of(*files))
    assert batch.shape == (len(files), 3, preset.crop, preset.crop)
    assert batch.dtype == torch.uint8
    for file, row in zip(files, batch, strict=True):
        # not the same to the bit: PIL scales large JPEGs down while decoding
        assert (row.float() - decode_image(file, preset, LIMIT).float()).abs().mean() < device_jpeg.TOLERANCE


def _jpeg(size: tuple[int, int] = (64, 48), mode: str = "RGB", **how) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, 127 if mode == "L" else None).save(out, "JPEG", **how)
    return out.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _jpeg(exif=exif)


@pytest.mark.parametrize(
    ("supported", "file"),
    {
        "a plain one": (True, _jpeg()),
        "progressive": (False, _jpeg(progressive=True)),
        "gray": (False, _jpeg(mode="L")),
        "CMYK": (False, _jpeg(mode="CMYK")),
        "to be turned": (False, _turned()),
        "cut short": (False, _jpeg()[:-20]),
        "a strip": (False, _jpeg((1700, 100))),
        "large": (False, _jpeg((2001, 2000))),
        "a PNG": (False, encoded(np.zeros((8, 8, 3), np.uint8))),
    }.values(),
)
def test_only_plain_jpegs_of_moderate_size_are_deferred(supported: bool, file: bytes) -> None:
    header = read_header(file)
    assert header is not None
    assert DeviceJpegs(CPU, PRESETS["resnet18"]).supports(header) is supported


def test_a_broken_jpeg_raises_invalid_input() -> None:
    whole = PHOTOS[0].read_bytes()
    broken = whole[:40] + b"\xff\xd9"  # no tables, no frame
    jpegs = DeviceJpegs(CPU, PRESETS["resnet18"])
    with pytest.raises(InvalidInput, match="broken header"):
        jpegs.pixels(rows_of(whole, broken))
    assert jpegs.pixels(rows_of(whole)).shape[0] == 1


def test_a_jpeg_that_only_the_device_rejects_is_decoded_by_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(*_: object, **__: object) -> None:
        raise RuntimeError("nvJPEG says no")

    monkeypatch.setattr(device_jpeg, "decode_jpeg", reject)
    preset, file = PRESETS["resnet18"], PHOTOS[0].read_bytes()
    batch = DeviceJpegs(CPU, preset).pixels(rows_of(file))
    assert torch.equal(batch[0], decode_image(file, preset, LIMIT))


def test_one_rejected_jpeg_leaves_the_others_on_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preset, files = PRESETS["resnet18"], [path.read_bytes() for path in PHOTOS[:2]]
    decode, rejected = device_jpeg.decode_jpeg, rows_of(files[1])[0]
    on_cpu: list[bytes] = []

    def choosy(images: list[torch.Tensor], *args: Any, **options: Any) -> Any:
        if any(torch.equal(image, rejected) for image in images):
            raise RuntimeError("nvJPEG says no")
        return decode(images, *args, **options)

    def decode_here(data: bytes, *args: object) -> torch.Tensor:
        on_cpu.append(data)
        return decode_image(data, preset, LIMIT)

    monkeypatch.setattr(device_jpeg, "decode_jpeg", choosy)
    monkeypatch.setattr(device_jpeg, "decode_image", decode_here)
    order = [files[0], files[0], files[1], files[0]]
    batch = DeviceJpegs(CPU, preset).pixels(rows_of(*order))
    assert on_cpu == [files[1]]
    for file, pixels in zip(order, batch, strict=True):
        assert (pixels.float() - decode_image(file, preset, LIMIT).float()).abs().mean() < 3


def test_the_trial_detects_a_device_without_a_decoder(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def reject(*_: object, **__: object) -> None:
        raise RuntimeError("not compiled with nvJPEG")

    monkeypatch.setattr(device_jpeg, "decode_jpeg", reject)
    assert device_jpeg.try_device(CPU, PRESETS["resnet18"], rows=1, cpu_threads=1) is None
    assert "not compiled with nvJPEG" in caplog.text


def test_out_of_memory_is_passed_on_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(device_jpeg, "decode_jpeg", full)
    with pytest.raises(torch.OutOfMemoryError):
        DeviceJpegs(CPU, PRESETS["resnet18"]).pixels(rows_of(PHOTOS[0].read_bytes()))


def test_the_trial_accepts_a_correct_and_faster_device(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(device_jpeg, "_shortest", lambda work: 0.032 if work() is not None and _is_batch(work) else 0.1)
    assert device_jpeg.try_device(CPU, PRESETS["resnet18"], rows=4, cpu_threads=4) is not None  # 8 against 25 ms
    assert device_jpeg.try_device(CPU, PRESETS["resnet18"], rows=1, cpu_threads=4) is None  # 32 against 25 ms
    assert "decodes 125 JPEGs" in caplog.text


def _is_batch(work) -> bool:
    return work().dim() == 4


def test_the_trial_rejects_deviating_pixels(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    decode = device_jpeg.decode_jpeg
    monkeypatch.setattr(device_jpeg, "decode_jpeg", lambda *a, **k: [image.flip(0) for image in decode(*a, **k)])
    assert device_jpeg.try_device(CPU, PRESETS["resnet18"], rows=2, cpu_threads=1) is None
    assert "deviate by" in caplog.text


def test_a_batch_mixes_deferred_jpegs_and_decoded_rows() -> None:
    model = resolve("resnet18")
    assert isinstance(model, Classifier)
    model.load(LoadContext(device="cpu", weights="random", torch_threads=1))
    jpeg, png = PHOTOS[0].read_bytes(), encoded(np.full((300, 300, 3), 90, np.uint8))

    def rows() -> list[torch.Tensor]:
        return [row for file in (jpeg, png, jpeg) for row in model.decode(Payload("image", [file]))]

    plain = rows()
    model._jpegs = DeviceJpegs(CPU, model._preset)
    mixed = rows()
    assert [row.dim() for row in mixed] == [1, 3, 1]
    assert len({model.group(row) for row in mixed}) == 1
    came, expected = (model.collate(each).float() for each in (mixed, plain))
    assert torch.equal(came[1], expected[1])
    assert (came - expected).abs().mean() < device_jpeg.TOLERANCE
