"""Opening pictures: every mode, every way to be broken, every limit."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from omnimix.errors import MediaError
from omnimix.media.audio import AudioOpener
from omnimix.media.document import DocumentOpener
from omnimix.media.image import ImageOpener
from omnimix.media.opening import MediaOpener
from omnimix.media.video import VideoOpener
from omnimix.types import Media


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def opened(data: Any, **words: Any) -> Image.Image:
    return ImageOpener(**words).open(Media.image(data))


def noise(width: int = 7, height: int = 5) -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_every_way_in_gives_the_same_picture(tmp_path: Path) -> None:
    picture = noise()
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture))
    for data in (
        str(path),
        path,
        encoded(picture),
        bytearray(encoded(picture)),
        np.asarray(picture),
    ):
        result = opened(data)
        assert result.mode == "RGB"
        assert result.tobytes() == picture.tobytes()


def test_an_rgb_picture_is_returned_as_it_is() -> None:
    picture = noise()
    assert opened(picture) is picture


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_allowed_formats(form: str) -> None:
    assert opened(encoded(noise(), form)).size == (7, 5)


def test_other_formats_are_refused() -> None:
    with pytest.raises(MediaError, match="no picture"):
        opened(encoded(noise(16, 16), "ICO"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_modes(mode: str) -> None:
    result = opened(noise().convert(mode))
    assert (result.mode, result.size) == ("RGB", (7, 5))


def test_16_bit_is_scaled_and_not_clipped() -> None:
    ramp = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    for picture in (Image.fromarray(ramp), Image.fromarray(ramp.astype(np.int32))):
        assert np.asarray(opened(picture))[0, :, 0].tolist() == [0, 1, 128, 255]
    assert np.asarray(opened(encoded(Image.fromarray(ramp))))[0, :, 1].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    "picture",
    [Image.new("F", (2, 2)), Image.fromarray(np.array([[70000, 1]], dtype=np.int32))],
    ids=["float", "32 bit"],
)
def test_numbers_of_unknown_range_are_refused(picture: Image.Image) -> None:
    with pytest.raises(MediaError, match="8 bit"):
        opened(picture)


def test_alpha() -> None:
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert opened(clear).getpixel((0, 0)) == (10, 20, 30)
    assert opened(clear, alpha="white").getpixel((0, 0)) == (255, 255, 255)
    palette = encoded(Image.new("RGB", (2, 2), (10, 20, 30)).convert("P"), transparency=b"\0" * 256)
    assert opened(palette).getpixel((0, 0)) == opened(palette, alpha="drop").getpixel((0, 0))
    assert opened(palette, alpha="white").getpixel((0, 0)) == (255, 255, 255)


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert opened(data).getpixel((1, 1)) == (255, 0, 0)


@pytest.mark.parametrize("form", [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(
    orientation: int, form: tuple[str, dict[str, bool]]
) -> None:
    upright = noise(4, 3)
    transpose = Image.Transpose
    stored = {
        1: None, 2: transpose.FLIP_LEFT_RIGHT, 3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM, 5: transpose.TRANSPOSE, 6: transpose.ROTATE_90,
        7: transpose.TRANSVERSE, 8: transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright if stored is None else upright.transpose(stored)
    data = encoded(turned, form[0], exif=exif, **form[1])
    once = opened(data)
    assert once.tobytes() == upright.tobytes()
    assert opened(once).tobytes() == upright.tobytes()
    if form[0] != "TIFF":  # those Pillow turns while it decodes
        assert opened(data, rotate=False).size == ((4, 3) if orientation < 5 else (3, 4))


@pytest.mark.parametrize(
    "address", ["http://a.b/c.png", "HTTPS://a/b", "s3://x", "data:image/png,"]
)
def test_nothing_is_fetched(address: str) -> None:
    with pytest.raises(MediaError, match="never fetches"):
        opened(address)


@pytest.mark.parametrize("data", [3, None, object(), ["a.png"], np.zeros((2, 2)), b"", b"GIF89a"])
def test_what_is_no_picture(data: Any) -> None:
    with pytest.raises(MediaError):
        opened(data)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (0, 4, 3), (1, 2, 3, 3)])
def test_arrays_of_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(MediaError):
        opened(np.zeros(shape, dtype=np.uint8))


def test_missing_folder_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "empty.png", Path("a\0b")):
        with pytest.raises(MediaError) as caught:
            opened(path)
        assert caught.value.where == str(path)
        assert caught.value.hint


@settings(deadline=None, max_examples=80)
@given(form=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM"]), data=st.data())
def test_damaged_files_give_a_media_error_or_a_picture(form: str, data: st.DataObject) -> None:
    content = bytearray(encoded(noise(20, 20), form))
    if data.draw(st.booleans(), label="cut"):
        content = content[: data.draw(st.integers(1, len(content) - 1))]
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MediaError):
        assert opened(bytes(content), max_pixels=10_000).mode == "RGB"


def test_a_truncated_file_is_an_error() -> None:
    data = encoded(noise(64, 64))
    with pytest.raises(MediaError, match="damaged"):
        opened(data[: len(data) // 2])


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises far more pixels than its bytes hold."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(9000, 8000), (40000, 1), (2**31 - 1, 2**31 - 1)])
def test_limits_are_checked_before_decoding(width: int, height: int) -> None:
    with pytest.raises(MediaError, match=r"smaller|too large|pixels"):
        opened(bomb(width, height))


def test_limits_can_be_set() -> None:
    with pytest.raises(MediaError, match="7 x 5"):
        opened(noise(), max_pixels=34)
    with pytest.raises(MediaError, match="7 x 5"):
        opened(np.asarray(noise()), max_side=6)
    with pytest.raises(MediaError, match="more than 10 bytes"):
        opened(encoded(noise()), max_bytes=10)


def test_a_long_label_is_cut() -> None:
    with pytest.raises(MediaError) as caught:
        opened("data:image/png;base64," + "A" * 100_000)
    assert len(str(caught.value)) < 400


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 9{1}\n"


@pytest.mark.parametrize("size", ["", "99999999"])
@pytest.mark.parametrize(
    ("opener", "name"),
    [
        *((ImageOpener, name) for name in ("a.png", "a.jpg", "a")),
        *((AudioOpener, name) for name in ("a.wav", "a.mp3")),
        *((VideoOpener, name) for name in ("a.mp4", "a.mkv")),
        *((DocumentOpener, name) for name in ("a.pdf", "a.txt")),
    ],
)
def test_pointers_of_git_lfs_and_folders_are_called_so(
    opener: type[MediaOpener], name: str, size: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(POINTER.format(0, size))
    with pytest.raises(MediaError, match="is a pointer of Git LFS"):
        opener().open(Media("any", tmp_path / name))
    if opener is not VideoOpener:  # for which a folder of frames is one
        with pytest.raises(MediaError, match="this is a folder"):
            opener().open(Media("any", tmp_path))
