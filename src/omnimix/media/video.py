"""Opening videos: a file, a folder or a list of pictures becomes the frames that are asked for.

No more frames are held than asked for: the others are decoded and let go. Which are taken is settled before,
from the number of frames that the file names (or that are counted without decoding them).
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt
from PIL import Image

from omnimix.errors import MediaError
from omnimix.media.containers import opened
from omnimix.media.image import ImageOpener
from omnimix.media.opening import MediaOpener, check_file, name_of, read
from omnimix.media.tiles import Tiles
from omnimix.types import Media

_TAKES = "a path, bytes, a folder of pictures or a list of pictures"
_FORMATS = "the formats are those that FFmpeg reads: MP4, MOV, MKV, WebM, AVI, GIF and more"
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
_THUMB = 16


class VideoOpener(MediaOpener):
    """Frames of a video, or of a sequence of pictures of one size.

    Attributes:
        num_frames: how many are taken; with `rate` at most so many.
        sampling: `even` spreads them from the first to the last; `rate` takes `per_second` of them, evenly;
            `scene` takes the first and those that differ most from the one before; `window` takes a row of
            neighbours, by the rule of the published X-CLIP modality: the last of `frames` indices that are
            spread over the `frames` frames before `end`.
        fps: of the sampling `rate`.
        end: of the sampling `window`, the frame behind the last; None draws it with `seed`, where the
            published code draws it anew each time.
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

    def open(self, media: Media) -> list[Image.Image]:
        """The frames in order, RGB, of one size.

        Raises:
            MediaError: missing, broken, cut off, of another format, beyond a limit, or an address.
        """
        where = name_of(media, "video")
        data = media.data
        if isinstance(data, np.ndarray) and data.ndim == 4:
            data = list(data)
        if isinstance(data, str | Path) and Path(data).is_dir():
            data = _pictures_in(Path(data), self.max_pictures, where)
        if isinstance(data, list | tuple):
            return self._sequence(data, where)
        return self._film(data, where)

    def tiles(self, opened: list[Image.Image]) -> Tiles:
        return Tiles.frames(opened)

    def _film(self, data: Any, where: str) -> list[Image.Image]:
        with self._source(data, where) as source:
            total, per_second = self._count(source, where)
            if self.sampling == "scene":
                wanted = self._scenes(source, where)
            else:
                wanted = self.indices(total, per_second, where)
            return self._take(source, wanted, total, where)

    @contextmanager
    def _source(self, data: Any, where: str) -> Iterator[Any]:
        """Something that can be opened again and again: bytes, or a file that is open for reading."""
        if not isinstance(data, str | Path):
            yield read(data, "video", where, self.max_bytes, _TAKES)
            return
        path = check_file(data, "video", where, self.max_bytes)
        with path.open("rb") as file:
            yield file

    @contextmanager
    def _track(self, source: Any, where: str) -> Iterator[tuple[Any, Any]]:
        if not isinstance(source, bytes):
            source.seek(0)
        with opened(source, "video", where, _FORMATS) as (container, stream):
            yield container, stream

    def _count(self, source: Any, where: str) -> tuple[int, float]:
        """How many frames there are, and how many in a second; limits are checked on the way."""
        with self._track(source, where) as (container, stream):
            width, height = stream.codec_context.width, stream.codec_context.height
            if width < 1 or height < 1:
                raise MediaError("the video has no pixels", where=where, hint="check its source")
            if width * height * self.num_frames > self.max_pixels:
                raise MediaError(
                    f"{self.num_frames} frames of {width} x {height} pixels are more than "
                    f"{self.max_pixels} pixels",
                    where=where,
                    hint="make it smaller, take fewer frames, or raise max_pixels",
                )
            per_second = float(stream.average_rate or stream.guessed_rate or 0)
            seconds = container.duration / 1e6 if container.duration else 0.0
            self._check_length(seconds, where)
            total = int(stream.frames or 0)
            if total == 0:  # the file does not say; packets are counted without decoding them
                total = self._packets(container, stream, seconds, where)
        if total == 0:
            raise MediaError("the video has no frames", where=where, hint="check its source")
        return total, per_second or (total / seconds if seconds else 0.0)

    def _packets(self, container: Any, stream: Any, seconds: float, where: str) -> int:
        """The frames of a file by its packets; all tracks tell whether it goes on to its end."""
        total, reached = 0, 0.0
        for packet in container.demux():
            total += packet.stream is stream and packet.size > 0
            if packet.pts is not None and packet.time_base is not None:
                reached = max(reached, float(packet.pts * packet.time_base))
        start = (container.start_time or 0) / 1e6
        if seconds > 1 and reached - start < seconds * 0.9 - 1:
            raise MediaError(
                f"the video breaks off after {reached - start:.0f} of {seconds:.0f} seconds",
                where=where,
                hint="copy or download it again",
            )
        return total

    def _check_length(self, seconds: float, where: str) -> None:
        if seconds > self.max_seconds:
            raise MediaError(
                f"the video lasts {seconds:.1f} seconds; at most {self.max_seconds:g} are taken",
                where=where,
                hint="cut it, or raise max_seconds",
            )

    def indices(self, total: int, per_second: float, where: str = "video") -> list[int]:
        """Which of so many frames are taken, in order; some may come twice in a short video.

        Raises:
            MediaError: a window is longer than the video, or the rate of frames is not known.
        """
        if self.sampling == "window":
            return self._window(total, where)
        if self.sampling == "rate":
            if per_second <= 0:
                raise MediaError(
                    "the video does not say how many frames a second has",
                    where=where,
                    hint="use sampling: even",
                )
            count = min(self.num_frames, max(1, int(total / per_second * self.fps)))
            step = per_second / self.fps
            if count * step > total:  # fewer frames in a second than are asked for
                step = total / count
            return [min(int(i * step), total - 1) for i in range(count)]
        spread = np.linspace(0, total - 1, self.num_frames).round()
        return [int(i) for i in spread]

    def _window(self, total: int, where: str) -> list[int]:
        if total <= self.num_frames:
            raise MediaError(
                f"the video has {total} frames; more than {self.num_frames} are needed",
                where=where,
                hint="give a longer one, or use sampling: even",
            )
        end = self.end
        if end is None:
            end = int(np.random.RandomState(self.seed).randint(self.num_frames, total))
        if not self.num_frames <= end <= total:
            raise MediaError(
                f"no window of {self.num_frames} frames ends at {end} in a video of {total}",
                where=where,
                hint="choose another 'end'",
            )
        start = end - self.num_frames
        spread = np.clip(np.linspace(start, end, num=self.num_frames), start, end - 1)
        return [int(i) for i in spread.astype(np.int64)]

    def _decoded(self, container: Any, stream: Any, where: str) -> Iterator[Any]:
        """All frames in the order in which they are shown."""
        for frame in container.decode(stream):
            self._check_length(float(frame.time or 0), where)
            yield frame

    def _take(
        self, source: Any, wanted: Sequence[int], total: int, where: str
    ) -> list[Image.Image]:
        kept: dict[int, Image.Image] = {}
        last, seen = max(wanted), 0
        with self._track(source, where) as (container, stream):
            for seen, frame in enumerate(self._decoded(container, stream, where), start=1):
                if seen - 1 in wanted or seen - 1 == last:
                    kept[seen - 1] = self._upright(frame)
                if seen > last:
                    break
        if not kept or seen < min(last + 1, total - max(2, total // 50)):
            raise MediaError(
                f"the video breaks off after {seen} of {total} frames",
                where=where,
                hint="copy or download it again",
            )
        # Some files name a frame or two more than they hold.
        held = sorted(kept)
        chosen = [kept[max((i for i in held if i <= index), default=held[0])] for index in wanted]
        return _of_one_size(chosen, where)

    def _upright(self, frame: Any) -> Image.Image:
        picture: Image.Image = frame.to_image()
        turn = _TURNS.get(int(frame.rotation) % 360) if self.rotate else None
        return picture if turn is None else picture.transpose(turn)

    def _scenes(self, source: Any, where: str) -> list[int]:
        """The first frame and those before which most changes, found on small grey pictures."""
        changes: list[tuple[float, int]] = []
        before: np.ndarray | None = None
        with self._track(source, where) as (container, stream):
            for i, frame in enumerate(self._decoded(container, stream, where)):
                small = frame.reformat(_THUMB, _THUMB, "gray").to_ndarray().astype(np.float32)
                if before is not None:
                    change = (float(np.abs(small - before).mean()), -i)
                    keep = (
                        heapq.heappush if len(changes) < self.num_frames - 1 else heapq.heappushpop
                    )
                    if self.num_frames > 1:
                        keep(changes, change)
                before = small
        if before is None:
            raise MediaError("the video has no frames", where=where, hint="check its source")
        found = sorted([0, *(-i for _, i in changes)])
        return found + [found[-1]] * (self.num_frames - len(found))

    def _sequence(self, pictures: Sequence[Any], where: str) -> list[Image.Image]:
        """Pictures as frames; with the sampling `rate` they count as one a second."""
        if not 0 < len(pictures) <= self.max_pictures:
            raise MediaError(
                f"{len(pictures)} pictures; a video is made of 1 to {self.max_pictures}",
                where=where,
                hint="give a list of pictures",
            )
        sampler = self.model_copy(update={"sampling": "even"}) if self.sampling == "scene" else self
        wanted = sampler.indices(len(pictures), 1.0, where)
        opener = ImageOpener(max_pixels=max(1, self.max_pixels // len(wanted)), rotate=self.rotate)
        taken: dict[int, Image.Image] = {}
        for i in wanted:
            if i not in taken:
                one = pictures[i] if isinstance(pictures[i], Media) else Media.image(pictures[i])
                taken[i] = opener.open(
                    Media.image(one.data, one.label or f"{where}, picture {i + 1}")
                )
        return _of_one_size([taken[i] for i in wanted], where)


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
