"""Videos: the frames that were asked for, upright and in order, or one clear sentence."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from omnimix.errors import MediaError, RecipeError
from omnimix.media.clip import Clip
from omnimix.media.steps import ResizeCrop
from omnimix.media.tensor_steps import Normalize
from omnimix.media.video import VideoOpener
from omnimix.types import Media


def shade(i: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """The i-th frame, whose grey says which it is; its left quarter is white."""
    picture = Image.new("RGB", size, (10 + 4 * i,) * 3)
    picture.paste((255, 255, 255), (0, 0, size[0] // 4, size[1]))
    return picture


def number(frame: Image.Image) -> int:
    """Which frame this was."""
    return round((frame.getpixel((frame.width - 8, frame.height // 2))[0] - 10) / 4)


def film(
    count: int = 40, format: str = "mp4", codec: str = "mpeg4", rate: int = 10, turn: int = 0
) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.bit_rate = 2_000_000
        for i in range(count):
            container.mux(stream.encode(av.VideoFrame.from_image(shade(i))))
        container.mux(stream.encode(None))
    content = file.getvalue()
    if turn:  # the track's matrix, as a telephone writes it
        identity = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
        cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turn]
        one = 1 << 16
        turned = [cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30]
        at = content.index(identity, content.index(b"tkhd"))
        content = content[:at] + np.array(turned, dtype=">i4").tobytes() + content[at + 36 :]
    return content


FILM = film()


def numbers(data: object, **words: object) -> list[int]:
    return [number(frame) for frame in VideoOpener(**words).open(Media.video(data))]


@pytest.mark.parametrize(
    ("format", "codec"),
    [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mjpeg"), ("mpegts", "mpeg2video")],
)
def test_files_of_every_format(format: str, codec: str, tmp_path: Path) -> None:
    rate = 25 if codec == "mpeg2video" else 10
    content = film(format=format, codec=codec, rate=rate) if codec != "mjpeg" else film_mjpeg()
    path = tmp_path / "film.txt"
    path.write_bytes(content)
    for data in (content, str(path), path):
        found = numbers(data, num_frames=4)
        assert np.abs(np.array(found) - [0, 13, 26, 39]).max() <= 1


def film_mjpeg() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for i in range(40):
            container.mux(
                stream.encode(av.VideoFrame.from_image(shade(i)).reformat(format="yuvj420p"))
            )
        container.mux(stream.encode(None))
    return file.getvalue()


def test_which_frames_are_taken() -> None:
    assert numbers(FILM, num_frames=5) == [0, 10, 20, 29, 39]
    assert numbers(FILM, num_frames=1) == [0]
    assert numbers(FILM, sampling="rate", num_frames=8, fps=2.0) == [
        0,
        5,
        10,
        15,
        20,
        25,
        30,
        35,
    ]
    assert numbers(FILM, sampling="rate", num_frames=3, fps=2.0) == [0, 5, 10]
    assert numbers(FILM, sampling="window", end=20) == [12, 13, 14, 15, 16, 17, 18, 19]
    drawn = numbers(FILM, sampling="window", seed=1)
    assert drawn == numbers(FILM, sampling="window", seed=1)
    assert np.diff(drawn).tolist()[:-1] == [1] * 6
    assert numbers(film(3), num_frames=6) == [0, 0, 1, 1, 2, 2]


def test_the_window_is_the_published_rule() -> None:
    """clip(linspace(end - 8, end, 8), .., end - 1), cut to whole numbers (golden/specs/multi_token.md)."""
    for end in (8, 9, 33, 40):
        wanted = np.clip(np.linspace(end - 8, end, num=8), end - 8, end - 1).astype(np.int64)
        opener = VideoOpener(sampling="window", end=end)
        assert opener.indices(range(40)) == wanted.tolist()
    with pytest.raises(MediaError, match="8 frames; more than 8 are needed"):
        VideoOpener(sampling="window").indices(range(8))
    with pytest.raises(MediaError, match="no window of 8 frames ends at 41"):
        VideoOpener(sampling="window", end=41).indices(range(40))
    ends = {VideoOpener(sampling="window", seed=seed).indices(range(12))[-1] for seed in range(60)}
    assert ends == {7, 8, 9, 10}  # end is drawn below the number of frames


def test_scenes_begin_where_most_changes() -> None:
    pictures = [
        Image.new("RGB", (64, 48), colour)
        for colour in ("black", "white", "green")
        for _ in range(10)
    ]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))
    frames = VideoOpener(sampling="scene", num_frames=3).open(Media.video(file.getvalue()))
    middles = [frame.getpixel((30, 20)) for frame in frames]
    assert [max(m) > 100 for m in middles] == [False, True, True]
    assert middles[1][0] > 200 and middles[2][0] < 60


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_frames_are_turned_upright(turn: int) -> None:
    content = film(4, turn=turn)
    (plain,) = VideoOpener(num_frames=1, rotate=False).open(Media.video(content))
    (upright,) = VideoOpener(num_frames=1).open(Media.video(content))
    assert plain.size == (64, 48)
    clockwise = plain.rotate(-turn, expand=True)
    assert upright.size == clockwise.size
    assert np.abs(np.asarray(upright, int) - np.asarray(clockwise, int)).max() < 3


def test_no_more_frames_are_held_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    upright = VideoOpener._upright
    monkeypatch.setattr(
        VideoOpener, "_upright", lambda self, frame: made.append(1) or upright(self, frame)
    )
    numbers(film(100), num_frames=3)
    assert len(made) == 3


def test_pictures_in_a_row(tmp_path: Path) -> None:
    for i in range(12):
        shade(i).save(tmp_path / f"frame{i}.png")
    (tmp_path / ".hidden").write_text("no picture")
    wanted = [0, 4, 7, 11]
    assert numbers(tmp_path, num_frames=4) == wanted  # frame10 stands behind frame9
    assert numbers([shade(i) for i in range(12)], num_frames=4) == wanted
    assert numbers([str(tmp_path / f"frame{i}.png") for i in range(12)], num_frames=4) == wanted
    assert numbers(np.stack([np.asarray(shade(i)) for i in range(12)]), num_frames=4) == wanted
    with pytest.raises(MediaError, match="differ in size"):
        numbers([shade(0), shade(1, (32, 48))], num_frames=2)
    with pytest.raises(MediaError, match="0 pictures"):
        numbers([])
    (tmp_path / "frame5.png").write_bytes(b"")
    with pytest.raises(MediaError, match=r"picture 6.*empty"):
        numbers(tmp_path, num_frames=12)


HALF = film(200, format="matroska")
BROKEN = {
    "empty": (b"", "the file is empty"),
    "noise": (bytes(range(256)) * 9, "no video that can be opened"),
    "a text": (b"This is no video at all.\n" * 9, "no video that can be opened"),
    "half an MP4": (FILM[: len(FILM) // 2], "cut off"),
    "half of it gone": (HALF[: len(HALF) // 2], "cut off|damaged"),
    "a playlist": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/hosts\n", "can be opened"),
    "a list of files": (b"ffconcat version 1.0\nfile /etc/hosts\n", "can be opened"),
    "an address": ("https://example.org/a.mp4", "never fetches"),
    "no such file": ("gone.mp4", "cannot read the video"),
    "nothing": (None, "cannot be made of NoneType"),
    "too long": (film(30, rate=5), "at most 5 are taken"),
    "too many pixels": (film(9), "are more than 20000 pixels"),
    "too large": (FILM * 9, r"more than \d+ bytes"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_refused(name: str) -> None:
    data, message = BROKEN[name]
    words: dict[str, object] = {"max_bytes": len(FILM) * 8}
    if name == "too long":
        words["max_seconds"] = 5
    if name == "too many pixels":
        words["max_pixels"] = 20_000
    if name == "half of it gone":
        words["num_frames"] = 30
    with pytest.raises(MediaError, match=message) as caught:
        VideoOpener(**words).open(Media.video(data, label="the film"))
    assert caught.value.where == "the film"


def test_a_sound_with_the_name_of_a_video(tmp_path: Path) -> None:
    import soundfile

    path = tmp_path / "film.mp4"
    soundfile.write(str(tmp_path / "a.wav"), np.zeros(900), 8000)
    (tmp_path / "a.wav").rename(path)
    with pytest.raises(MediaError, match="holds no video"):
        numbers(path)


def test_a_clip_is_one_tile() -> None:
    opener = VideoOpener(num_frames=4)
    tiles = opener.tiles(opener.open(Media.video(FILM)))
    assert len(tiles.pictures) == 4
    crop, clip = ResizeCrop(size=32, interpolation="bilinear"), Clip(num_frames=4)
    norm = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    one = norm(clip(crop(tiles))).tensor()
    assert one.shape == (1, 4, 3, 32, 32)
    torch.testing.assert_close(one[0], norm(crop(tiles)).tensor())
    with pytest.raises(RecipeError, match="got 4 frames, it makes one tile of 8"):
        Clip(num_frames=8)(tiles)
