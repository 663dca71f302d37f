import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from shared.errors import InvalidInput
from tests.worker.models.photos import encoded, pixels
from worker.models.images import Preset, decode_image, decode_images

EXACT = Preset(resize=8, crop=8)  # 8x8 images pass unchanged
LIMIT = 1_000_000


def test_pixels_of_a_png_arrive_unchanged():
    array = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    row = decode_image(encoded(array), EXACT, LIMIT)
    assert row.dtype == torch.uint8
    assert np.array_equal(row.numpy(), array.transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int):
    marked = np.zeros((8, 8, 3), np.uint8)
    marked[:2, :4] = 255  # as it should be seen: a bar at the top left
    stored = {
        1: marked,
        2: marked[:, ::-1],
        3: marked[::-1, ::-1],
        4: marked[::-1],
        5: marked.transpose(1, 0, 2),
        6: np.rot90(marked, 1),
        7: np.rot90(marked, 2).transpose(1, 0, 2),
        8: np.rot90(marked, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for format, options in (("PNG", {}), ("JPEG", {"quality": 100}), ("WEBP", {"lossless": True})):
        row = decode_image(encoded(np.ascontiguousarray(stored), format, exif=exif, **options), EXACT, LIMIT)
        seen = row.numpy().transpose(1, 2, 0).astype(int)
        assert np.abs(seen - marked).max() <= 40, format  # JPEG rings a little


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_damaged_exif_is_no_reason_to_refuse():
    data = encoded(np.full((8, 8, 3), 9, np.uint8), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_image(data, EXACT, LIMIT)[0, 0, 0] == 9


GRAY16 = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
CLEAR = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
PALETTE = Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (encoded(Image.new("L", (8, 8), 77)), (77, 77, 77)),
        (encoded(GRAY16), (128, 128, 128)),
        (encoded(CLEAR), (255, 255, 255)),
        (encoded(Image.new("LA", (8, 8), (50, 255))), (50, 50, 50)),
        (encoded(PALETTE), (10, 200, 30)),
        (encoded(PALETTE, transparency=bytes([0])), (255, 255, 255)),
        (encoded(Image.new("1", (8, 8), 1)), (255, 255, 255)),
        (encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"), (255, 255, 255)),
        (encoded(Image.new("RGBA", (8, 8), (1, 2, 3, 255)), "WEBP", lossless=True), (1, 2, 3)),
    ],
    ids=["gray", "gray16", "clear", "gray+alpha", "palette", "clear palette", "bits", "cmyk", "webp"],
)
def test_any_mode_becomes_rgb_as_a_viewer_shows_it(data: bytes, colour: tuple[int, int, int]):
    assert tuple(decode_image(data, EXACT, LIMIT)[:, 4, 4].tolist()) == colour


def bomb(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(b"\0")
    rest = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return b"\x89PNG\r\n\x1a\n" + chunk + rest


@pytest.mark.parametrize("side", [1001, 10_000, 30_000])
def test_too_many_pixels_are_refused_from_the_header(side: int):
    with pytest.raises(InvalidInput, match=rf"at most 1000000 pixels, got {side}x{side}"):
        decode_image(bomb(side, side), EXACT, LIMIT)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_truncated_image_is_refused(format: str):
    data = encoded(pixels("chelsea"), format)
    with pytest.raises(InvalidInput, match="broken"):
        decode_image(data[: len(data) // 2], EXACT, LIMIT)


@pytest.mark.parametrize(
    ("data", "came"),
    [
        (b"", "got no bytes"),
        (b"hello world", "11 bytes starting with 68 65 6c 6c 6f 20 77 6f"),
        (encoded(np.zeros((8, 8, 3), np.uint8), "GIF"), "got a GIF"),
        (encoded(np.zeros((8, 8, 3), np.uint8), "TIFF"), "got a TIFF"),
        (b"\xff\xd8\xff\xe0", "broken header"),
        (b"RIFF\x04\0\0\0WAVE", "broken header"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "broken"),
    ],
)
def test_what_is_no_image_is_refused_saying_what_came(data: bytes, came: str):
    with pytest.raises(InvalidInput, match=came):
        decode_image(data, EXACT, LIMIT)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # about metadata; which ones hangs on the damage
def test_flipped_bytes_never_raise_anything_but_invalid_input():
    random = np.random.default_rng(0)
    for format in ("JPEG", "PNG", "WEBP"):
        whole = np.frombuffer(encoded(pixels("chelsea")[:64, :64], format), np.uint8)
        for _ in range(150):
            damaged = whole.copy()
            damaged[random.integers(0, len(whole), 3)] = random.integers(0, 256, 3)
            try:
                decode_image(damaged.tobytes(), EXACT, LIMIT)
            except InvalidInput:
                continue


def test_large_jpeg_is_scaled_in_the_decoder_without_changing_the_picture():
    large = Image.fromarray(pixels("chelsea")).resize((3608, 2400), Image.Resampling.BICUBIC)
    preset = Preset(resize=256, crop=224)
    drafted = decode_image(encoded(large, "JPEG", quality=95), preset, 50_000_000)
    whole = decode_image(encoded(large, "PNG", compress_level=1), preset, 50_000_000)
    assert (drafted.float() - whole.float()).abs().mean() < 2.0


def test_extreme_strip_does_not_blow_up():
    row = decode_image(encoded(np.full((1, 60_000, 3), 40, np.uint8)), Preset(resize=256, crop=224), LIMIT)
    assert row.shape == (3, 224, 224) and row.unique().tolist() == [40]


def test_threads_decode_alike():
    data, preset = encoded(pixels("coffee"), "JPEG"), Preset(resize=256, crop=224)
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda _: decode_image(data, preset, LIMIT), range(8)))
    assert all(torch.equal(row, rows[0]) for row in rows)


def test_the_pixels_of_all_images_of_a_request_count_together():
    one = encoded(np.zeros((600, 600, 3), np.uint8))
    assert len(decode_images([one] * 2, EXACT, LIMIT)) == 2
    with pytest.raises(InvalidInput, match="at most 1000000 pixels, got 3 images with 1080000"):
        decode_images([one] * 3, EXACT, LIMIT)


def test_a_webp_that_lies_about_its_size_is_refused():
    with pytest.raises(InvalidInput):
        decode_image(b"RIFF\xff\xff\xff\xffWEBPVP8X" + bytes(range(256)), EXACT, LIMIT)
