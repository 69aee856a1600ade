"""Opening videos: a file, a folder or a list of pictures becomes the frames that are asked for.

No more frames are held than asked for: the others are decoded and let go. Which are taken, the packets say before
anything is decoded; where the frames that come out are others, they are chosen again by these. When a frame is
shown, its time stamp says: rates vary, frames are dropped, and edit lists hide some.
"""

from __future__ import annotations

import heapq
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt
from PIL import Image

from omnimix.errors import MediaError
from omnimix.media.containers import decoded, opened, packets
from omnimix.media.ends import check_end
from omnimix.media.image import ImageOpener
from omnimix.media.opening import MediaOpener, chance, check_file, name_of, read
from omnimix.media.tiles import Tiles
from omnimix.types import Media

_TAKES = (
    "a path, bytes, a folder of pictures, a list of pictures, or {path: ..., frames: [numbers]}"
)
_FORMATS = "the formats are those that FFmpeg reads: MP4, MOV, MKV, WebM, AVI, GIF and more"
_THUMB = 16
_STAMP = 1e-6  # seconds that time stamps may be off by their arithmetic


class VideoOpener(MediaOpener):
    """Frames of a video, or of a sequence of pictures of one size.

    `{"path": ..., "frames": [3, 4, ...]}` (or `bytes` for `path`) states which frames are taken, whatever the
    sampling; as many pictures as a window has are that window.

    Attributes:
        num_frames: how many are taken; with `rate` at most so many.
        sampling: `even` spreads them from the first to the last; `rate` takes those shown at every `1 / fps` seconds;
            `scene` takes the first and those that differ most from the one before; `window` takes a row of
            neighbours, by the rule of the published X-CLIP modality: the last of `frames` indices that are
            spread over the `frames` frames before `end`.
        fps: of the sampling `rate`.
        end: of the sampling `window`, the frame behind the last; None draws it with `seed` and the item's own
            `draw`, which is another one in every round of training.
        seed: of that draw.
        rotate: turn frames upright as the file's metadata says.
        max_bytes: most bytes a file may have.
        max_seconds: longest video.
        max_pixels: most pixels of all frames taken together.
        max_pictures: most pictures of a sequence.
    """

    kind: Literal["video"] = "video"
    num_frames: Annotated[int, Gt(0)] = 8
    sampling: Literal["even", "rate", "scene", "window"] = "even"
    fps: Annotated[float, Gt(0)] = 1.0
    end: Annotated[int, Ge(1)] | None = None
    seed: int = 0
    rotate: bool = True
    max_bytes: Annotated[int, Gt(0)] = 1024 * 1024 * 1024
    max_seconds: Annotated[float, Gt(0)] = 3600.0
    max_pixels: Annotated[int, Gt(0)] = 2**28
    max_pictures: Annotated[int, Gt(0)] = 100_000

    @property
    def random(self) -> bool:
        return self.sampling == "window" and self.end is None

    def open(self, media: Media) -> list[Image.Image]:
        """The frames in order, RGB, of one size.

        Raises:
            MediaError: missing, broken, cut off, of another format, beyond a limit, or an address.
        """
        where = name_of(media, "video")
        data, asked = _asked(media, where)
        if isinstance(data, np.ndarray) and data.ndim == 4:
            data = list(data)
        if isinstance(data, str | Path) and Path(data).is_dir():
            data = _pictures_in(Path(data), self.max_pictures, where)
        if isinstance(data, list | tuple):
            return self._sequence(data, asked, where)
        return self._film(data, asked, where)

    def tiles(self, opened: list[Image.Image]) -> Tiles:
        return Tiles.frames(opened)

    def _film(self, data: Any, asked: _Asked, where: str) -> list[Image.Image]:
        with self._source(data, where) as source:
            by_times = self.sampling != "scene" or asked.frames is not None
            expected = self._expected(source, where)
            wanted = [] if by_times else self._scenes(source, where)
            with suppress(MediaError):  # what does not suit the packets may suit the frames
                wanted = self._wanted(expected, asked, where) if by_times else wanted
            kept, shown = self._take(source, wanted, where)
            again = self._wanted(shown, asked, where) if by_times else wanted
            if again != wanted:
                kept, shown = self._take(source, again, where)
            return _of_one_size([kept[index] for index in again], where)

    def _wanted(self, times: Sequence[float], asked: _Asked, where: str) -> list[int]:
        if not times:
            raise MediaError("the video has no frames", where=where, hint="check its source")
        if asked.frames is not None:
            return self._stated(asked.frames, len(times), where)
        return self.indices(times, where, asked.draw)

    def _stated(self, frames: Sequence[int], total: int, where: str) -> list[int]:
        """Frames that the item itself names.

        Raises:
            MediaError: another number of them than the model takes, or one that the video does not have.
        """
        if len(frames) != self.num_frames or not all(0 <= index < total for index in frames):
            raise MediaError(
                f"the item states the frames {', '.join(map(str, frames))} of a video of {total}",
                where=where,
                hint=f"state {self.num_frames} of them, each from 0 to {total - 1}",
            )
        return list(frames)

    @contextmanager
    def _source(self, data: Any, where: str) -> Iterator[Any]:
        """Something that can be opened again and again: bytes, or a file that is open for reading."""
        if not isinstance(data, str | Path):
            content = read(data, "video", where, self.max_bytes, _TAKES)
            check_end(io.BytesIO(content), "video", where)
            yield content
            return
        path = check_file(data, "video", where, self.max_bytes)
        with path.open("rb") as file:
            check_end(file, "video", where)
            yield file

    @contextmanager
    def _track(self, source: Any, where: str) -> Iterator[tuple[Any, Any]]:
        if not isinstance(source, bytes):
            source.seek(0)
        with opened(source, "video", where, _FORMATS) as (container, stream):
            yield container, stream

    def _expected(self, source: Any, where: str) -> list[float]:
        """When frames are to be shown, in seconds from the first, by the packets; limits are checked on the way."""
        with self._track(source, where) as (container, stream):
            width, height = stream.codec_context.width, stream.codec_context.height
            if width < 1 or height < 1:
                raise MediaError("the video has no pixels", where=where, hint="check its source")
            self._check_size(width, height, where)
            stamps = [
                float(packet.pts * packet.time_base)
                for packet in packets(container, stream, "video", where)
                if packet.size and packet.pts is not None and not packet.is_discard
            ]
        first = min(stamps, default=0.0)
        self._check_length(max(stamps, default=0.0) - first, where)
        return sorted(stamp - first for stamp in stamps)

    def _check_size(self, width: int, height: int, where: str) -> None:
        if width * height * self.num_frames > self.max_pixels:
            raise MediaError(
                f"{self.num_frames} frames of {width} x {height} pixels are more than "
                f"{self.max_pixels} pixels",
                where=where,
                hint="make it smaller, take fewer frames, or raise max_pixels",
            )

    def _check_length(self, seconds: float, where: str) -> None:
        if seconds > self.max_seconds:
            raise MediaError(
                f"the video lasts {seconds:.1f} seconds; at most {self.max_seconds:g} are taken",
                where=where,
                hint="cut it, or raise max_seconds",
            )

    def indices(
        self, times: Sequence[float], where: str = "video", draw: int | None = None
    ) -> list[int]:
        """Which frames are taken, in order; some may come twice in a short video.

        Args:
            times: when each is shown, in seconds from the first.
            draw: of the item, for the sampling `window`.

        Raises:
            MediaError: a window is longer than the video.
        """
        if self.sampling == "window":
            return self._window(len(times), where, draw)
        if self.sampling == "rate":
            count = min(self.num_frames, int(times[-1] * self.fps + _STAMP) + 1)
            at = [i / self.fps + _STAMP for i in range(count)]
            return [int(i) - 1 for i in np.searchsorted(times, at, side="right")]
        spread = np.linspace(0, len(times) - 1, self.num_frames).round()
        return [int(i) for i in spread]

    def _window(self, total: int, where: str, draw: int | None) -> list[int]:
        if total <= self.num_frames:
            raise MediaError(
                f"the video has {total} frames; more than {self.num_frames} are needed",
                where=where,
                hint="give a longer one, or use sampling: even",
            )
        end = self.end
        if end is None:
            end = int(chance(self.seed, draw).randint(self.num_frames, total))
        if not self.num_frames <= end <= total:
            raise MediaError(
                f"no window of {self.num_frames} frames ends at {end} in a video of {total}",
                where=where,
                hint="choose another 'end'",
            )
        start = end - self.num_frames
        spread = np.clip(np.linspace(start, end, num=self.num_frames), start, end - 1)
        return [int(i) for i in spread.astype(np.int64)]

    def _frames(self, source: Any, where: str) -> Iterator[tuple[float, Any]]:
        """All frames in the order in which they are shown, each with its seconds from the first."""
        with self._track(source, where) as (container, stream):
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            first = time = None
            for frame in decoded(container, stream, "video", where):
                if frame.time is not None:
                    now = float(frame.time)
                else:  # a stream that was never put into a container states no times
                    now = 0.0 if time is None else time + 1 / rate
                first = now if first is None else first
                time = now if time is None else max(time, now)
                self._check_length(time - first, where)
                self._check_size(frame.width, frame.height, where)
                yield time - first, frame

    def _take(
        self, source: Any, wanted: Sequence[int], where: str
    ) -> tuple[dict[int, Image.Image], list[float]]:
        """The pictures of frames by their numbers, and when every frame is shown."""
        kept: dict[int, Image.Image] = {}
        times: list[float] = []
        chosen = set(wanted)
        for i, (time, frame) in enumerate(self._frames(source, where)):
            times.append(time)
            if i in chosen:
                kept[i] = self._upright(frame)
        return kept, times

    def _upright(self, frame: Any) -> Image.Image:
        picture: Image.Image = frame.to_image()
        turn = int(frame.rotation) % 360 if self.rotate else 0
        return picture.rotate(turn, expand=True) if turn in (90, 180, 270) else picture

    def _scenes(self, source: Any, where: str) -> list[int]:
        """The first frame and those before which most changes, found on small grey pictures."""
        changes: list[tuple[float, int]] = []
        before: np.ndarray | None = None
        for i, (_, frame) in enumerate(self._frames(source, where)):
            small = frame.reformat(_THUMB, _THUMB, "gray").to_ndarray().astype(np.float32)
            if before is not None:
                change = (float(np.abs(small - before).mean()), -i)
                keep = heapq.heappush if len(changes) < self.num_frames - 1 else heapq.heappushpop
                if self.num_frames > 1:
                    keep(changes, change)
            before = small
        if before is None:
            raise MediaError("the video has no frames", where=where, hint="check its source")
        found = sorted([0, *(-i for _, i in changes)])
        return found + [found[-1]] * (self.num_frames - len(found))

    def _sequence(self, pictures: Sequence[Any], asked: _Asked, where: str) -> list[Image.Image]:
        """Pictures as frames; with the sampling `rate` they count as one a second."""
        if not 0 < len(pictures) <= self.max_pictures:
            raise MediaError(
                f"{len(pictures)} pictures; a video is made of 1 to {self.max_pictures}",
                where=where,
                hint="give a list of pictures",
            )
        sampler = self.model_copy(update={"sampling": "even"}) if self.sampling == "scene" else self
        if asked.frames is not None:
            wanted = self._stated(asked.frames, len(pictures), where)
        elif self.sampling == "window" and self.end is None and len(pictures) == self.num_frames:
            wanted = list(range(self.num_frames))  # somebody has chosen the window already
        else:
            wanted = sampler.indices(range(len(pictures)), where, asked.draw)
        opener = ImageOpener(max_pixels=max(1, self.max_pixels // len(wanted)), rotate=self.rotate)
        taken: dict[int, Image.Image] = {}
        for i in wanted:
            if i not in taken:
                one = pictures[i] if isinstance(pictures[i], Media) else Media.image(pictures[i])
                taken[i] = opener.open(
                    Media.image(one.data, one.label or f"{where}, picture {i + 1}")
                )
        return _of_one_size([taken[i] for i in wanted], where)


@dataclass(frozen=True)
class _Asked:
    """What an item says itself about its frames.

    Attributes:
        frames: which ones are taken; None leaves it to the opener.
        draw: for the opener's chance.
    """

    frames: tuple[int, ...] | None
    draw: int | None


def _asked(media: Media, where: str) -> tuple[Any, _Asked]:
    """The video itself, and what the item says about its frames.

    Raises:
        MediaError: frames that are neither numbers nor pictures.
    """
    data = media.data
    if not isinstance(data, Mapping):
        return data, _Asked(None, media.draw)
    video = data["bytes"] if data.get("bytes") is not None else data.get("path")
    frames = data.get("frames")
    if frames is None:
        return video, _Asked(None, media.draw)
    if video is None:  # the frames themselves, as pictures
        return list(frames), _Asked(None, media.draw)
    if not isinstance(frames, list | tuple) or not all(type(one) is int for one in frames):
        raise MediaError(
            "the frames that are stated are no list of whole numbers",
            where=where,
            hint='write {"path": ..., "frames": [3, 4, 5]}',
        )
    return video, _Asked(tuple(frames), media.draw)


def _of_one_size(frames: list[Image.Image], where: str) -> list[Image.Image]:
    for frame in frames:
        if frame.size != frames[0].size:
            raise MediaError(
                f"the frames differ in size ({frames[0].width} x {frames[0].height} and "
                f"{frame.width} x {frame.height} pixels)",
                where=where,
                hint="bring them to one size",
            )
    return frames


def _pictures_in(folder: Path, most: int, where: str) -> list[Path]:
    """Files of a folder, numbers in their names in order of size."""
    found: list[Path] = []
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("."):
            found.append(path)
        if len(found) > most:
            raise MediaError(
                f"the folder holds more than {most} files", where=where, hint="use fewer"
            )
    return sorted(found, key=lambda path: _natural(path.name))


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts if part]
