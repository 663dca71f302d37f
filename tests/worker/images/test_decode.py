import io
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smartbatch.shared.errors import BodyTooLarge, InvalidInput
from smartbatch.worker.images import decode
from smartbatch.worker.images.decode import Preset, Resample, _MemoryBudget, decode_image, decode_images
from tests.brokers import eventually
from tests.worker.images.hostile_images import exif, jpeg_with, png_with, segment
from tests.worker.images.photos import encoded, pixels

ROOT = Path(__file__).parents[3]
EXACT = Preset(resize=8, crop=8)  # 8x8 images pass unchanged
LIMIT = 1_000_000


def test_pixels_of_a_png_arrive_unchanged():
    array = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    row = decode_image(encoded(array), EXACT, LIMIT)
    assert row.dtype == torch.uint8
    assert np.array_equal(row.numpy(), array.transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int):
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
def test_damaged_exif_is_ignored():
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
def test_too_many_pixels_are_rejected_by_the_header(side: int):
    with pytest.raises(InvalidInput, match=rf"at most 1000000 pixels, got {side}x{side}"):
        decode_image(bomb(side, side), EXACT, LIMIT)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_truncated_image_is_rejected(format: str):
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
def test_other_files_are_rejected_with_their_type(data: bytes, came: str):
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


def test_threads_decode_to_equal_pixels():
    data, preset = encoded(pixels("coffee"), "JPEG"), Preset(resize=256, crop=224)
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda _: decode_image(data, preset, LIMIT), range(8)))
    assert all(torch.equal(row, rows[0]) for row in rows)


def test_the_pixels_of_all_images_of_a_request_count_together():
    one = encoded(np.zeros((600, 600, 3), np.uint8))
    assert len(decode_images([one] * 2, EXACT, LIMIT)) == 2
    with pytest.raises(BodyTooLarge, match="at most 1000000 pixels together, got 3 images with 1080000"):
        decode_images([one] * 3, EXACT, LIMIT)


def test_a_webp_with_a_false_size_is_rejected():
    with pytest.raises(InvalidInput):
        decode_image(b"RIFF\xff\xff\xff\xffWEBPVP8X" + bytes(range(256)), EXACT, LIMIT)


# --- headers that cost more than the pixels: each of these took PIL seconds to minutes, or gigabytes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png_with((b"aaAa", b""), 20_000), "more chunks than 1000 and one per KiB"),
        (png_with((b"IDAT", b""), 20_000), "more chunks than 1000 and one per KiB"),
        (jpeg_with(segment(0xE1, b"Exif\0\0x") * 20_000), "more than 1000 segments"),
        (jpeg_with(b"\xff" * 1_000_000), "no scan follows"),
        (jpeg_with(b"", scans=101), "111 scans, more than 100"),
        (jpeg_with(segment(0xC0, struct.pack(">BHHB", 8, 8, 8, 1))), "two frames"),
        (jpeg_with(segment(0xE1, b"")[:-1] + b"\0"), "cut short"),
    ],
    ids=["chunks", "empty IDAT", "Exif segments", "fill bytes", "scans", "frames", "length 0"],
)
def test_a_costly_header_is_rejected_before_pil_reads_it(data: bytes, message: str):
    with pytest.raises(InvalidInput, match=message):
        decode_image(data, EXACT, LIMIT)


@pytest.mark.parametrize(
    "data",
    [
        png_with((b"iCCP", b"x\0\0" + zlib.compress(bytes(1_000_000))), 400),
        png_with((b"zTXt", b"x\0\0" + zlib.compress(bytes(1_000_000))), 400),
        png_with((b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(5_000_000)))),
        png_with((b"eXIf", exif(2000, 500_000))),
        png_with((b"acTL", struct.pack(">II", 2**31 - 1, 0))),
        jpeg_with(segment(0xE1, exif(3000, 20_000))),
        jpeg_with(segment(0xFE, bytes(60_000)) * 300),
    ],
    ids=["400 MB of profile", "400 MB of text", "5 MB of text", "1 GB of EXIF", "2 G frames", "60 MB EXIF", "comment"],
)
def test_metadata_is_never_passed_to_pil(data: bytes, monkeypatch: pytest.MonkeyPatch):
    def inflate(*_):
        raise AssertionError("PIL inflated something")

    monkeypatch.setattr("PIL.PngImagePlugin._safe_zlib_decompress", inflate)
    monkeypatch.setattr("PIL.Image.Exif.load", inflate)
    assert decode_image(data, EXACT, LIMIT).float().mean() == pytest.approx(9, abs=1)


@pytest.mark.parametrize(("width", "height"), [(65_501, 1), (1, 65_501), (1, 900_000)])
def test_a_side_beyond_jpegs_limit_is_rejected(width: int, height: int):
    with pytest.raises(InvalidInput, match=rf"at most 65500 pixels a side, got {width}x{height}"):
        decode_image(bomb(width, height), EXACT, LIMIT)


@pytest.mark.parametrize(("lossless", "most"), [(False, 1500), (True, 1000)])
def test_a_webp_beyond_the_memory_budget_is_rejected(lossless: bool, most: int):
    limit = 2_000_000  # pixels, of which there is room for 12 bytes each
    fits, too_large = (
        encoded(np.zeros((1000, width, 3), np.uint8), "WEBP", lossless=lossless) for width in (most, most + 1)
    )
    assert decode_image(fits, EXACT, limit).sum() == 0
    with pytest.raises(InvalidInput, match=rf"within 24 MB, got a WEBP of {most + 1}x1000, which needs 24"):
        decode_image(too_large, EXACT, limit)


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, format, save_all=True, append_images=frames[1:], lossless=True)
        assert decode_image(buffer.getvalue(), EXACT, LIMIT)[:, 4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "I;16"])
@pytest.mark.parametrize("how", [Resample.BILINEAR, Resample.BICUBIC])
@pytest.mark.parametrize("squash", [False, True])
def test_converting_in_bands_gives_the_same_pixels_as_converting_the_whole(
    mode: str, how: Resample, squash: bool, monkeypatch: pytest.MonkeyPatch
):
    photo = Image.fromarray(pixels("coffee"))
    if mode == "P":
        image = photo.quantize(64)
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    else:
        image = photo.convert("L" if mode == "LA" else "RGB").convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(Image.fromarray(pixels("coffee")[..., 1]))
    data, preset = encoded(image), Preset(64, 56, resample=how, squash=squash)
    whole = decode_image(data, preset, LIMIT)
    monkeypatch.setattr(decode, "BAND_PIXELS", 20_000)  # a dozen bands
    assert (decode_image(data, preset, LIMIT).int() - whole.int()).abs().max() <= 1


# --- many at once


def test_large_images_wait_for_memory_in_order_and_small_ones_never_wait():
    budget, order = _MemoryBudget(), []
    large = decode.SMALL_BYTES

    def take(name: str, size: int) -> threading.Thread:
        def run() -> None:
            with budget.reserved(size, 2 * large):
                order.append(name)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    with budget.reserved(large, 2 * large):
        first = take("all of it", 2 * large)
        eventually(budget._first_in_line.locked)
        second = take("fits, but came later", large)
        take("small", large - 1).join(5)
        assert order == ["small"]
    first.join(5)
    second.join(5)
    assert order == ["small", "all of it", "fits, but came later"]


MEASURED = """
import io, resource, sys
from PIL import Image
from tests.worker.images.photos import encoded
from smartbatch.worker.images.decode import Preset, decode_image

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

data = open(sys.argv[1], "rb").read()
before = peak_mb()
decode_image(data, Preset(256, 224), 50_000_000)
print(peak_mb() - before)
"""


@pytest.mark.parametrize(("mode", "most_mb"), [("RGBA", 400), ("P", 200)])
def test_converting_a_large_image_takes_little_more_than_its_pixels(mode: str, most_mb: int, tmp_path: Path):
    """It used to take 950 and 810 MB for these 50 megapixels, and 1.9 GB for a strip."""
    image = Image.new(mode, (10_000, 5_000), 3)
    path = tmp_path / "large.png"
    options: Any = {"transparency": bytes(9)} if mode == "P" else {}
    path.write_bytes(encoded(image, "PNG", compress_level=1, **options))
    image.close()
    measured = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert float(measured.stdout) < most_mb
