"""Opening sounds: a file, bytes or samples become a `Sound`, or a `MediaError`.

WAV, FLAC, OGG and their like are read by soundfile; MP3, whose length it guesses, and what it does not know (M4A,
the sound of a video) by PyAV. What is decoded is counted, whatever the file says of its length.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt
from jaxtyping import Float

from omnimix.errors import MediaError
from omnimix.media.ends import check_end, links, unstated
from omnimix.media.opening import MediaOpener, name_of, needed, read
from omnimix.media.tiles import Tiles
from omnimix.types import Media

_TAKES = "a path, bytes, (samples, rate) or {array: samples, sampling_rate: rate}"
_FORMATS = "WAV, FLAC, OGG and MP3, and what FFmpeg reads"
_MOST_CHANNELS = 32
_RATES = (100, 768_000)
_PIECE = 1 << 16  # samples that are decoded at a time
_MOST_SAMPLES = 1 << 29  # 2 GiB


@dataclass(frozen=True, eq=False)
class Sound:
    """Samples between -1 and 1 and how many there are in a second.

    Attributes:
        channels: `[channels, samples]`.
        rate: in Hz.
        draw: as of `Media`: for steps that choose parts of it by chance.
        crops: where the parts begin that such a step is to take, in its own counting; None leaves it to chance.
    """

    channels: Float[np.ndarray, "channels samples"]
    rate: int
    draw: int | None = None
    crops: tuple[int, ...] | None = None

    @property
    def seconds(self) -> float:
        return float(self.channels.shape[1] / self.rate)

    def mono(self) -> Float[np.ndarray, " samples"]:
        """The mean of the channels."""
        mean: np.ndarray = self.channels.mean(axis=0, dtype=np.float32)
        return mean


class AudioOpener(MediaOpener):
    """Sounds from a path, bytes, `(samples, rate)` or `{"array": ..., "sampling_rate": ...}`.

    Samples are `[samples]` or `[channels, samples]`; whole numbers are scaled to -1..1 by their type. A
    mapping with `path` or `bytes`, as datasets hold sounds, is taken too, and may say with `crops` which parts of a
    long sound are looked at, for steps that draw them otherwise (`clap_mel`).

    Attributes:
        max_bytes: most bytes a file may have.
        max_seconds: longest sound.
    """

    kind: Literal["audio"] = "audio"
    max_bytes: Annotated[int, Gt(0)] = 256 * 1024 * 1024
    max_seconds: Annotated[float, Gt(0)] = 1800.0

    def open(self, media: Media) -> Sound:
        """The sound with all its channels.

        Raises:
            MediaError: missing, broken, cut off, of another format, beyond a limit, or an address.
        """
        where = name_of(media, "sound")
        data = _plain(media.data)
        if isinstance(data, tuple):
            sound = _from_samples(*data, where=where)
        else:
            content = read(data, "sound", where, self.max_bytes, _TAKES)
            check_end(io.BytesIO(content), "sound", where)
            sound = self._joined([self._decode(part, where) for part in links(content)], where)
        if not sound.channels.size:
            raise MediaError("the sound has no samples", where=where, hint="check its source")
        self._check_length(sound.seconds, sound.channels.size, where)
        if not np.isfinite(sound.channels).all():
            raise MediaError("the sound holds values that are no numbers", where=where)
        return replace(sound, draw=media.draw, crops=_crops(media.data, where))

    def tiles(self, opened: Sound) -> Tiles:
        return Tiles.holding(opened)

    def _check_length(self, seconds: float, samples: int, where: str) -> None:
        if seconds > self.max_seconds:
            raise MediaError(
                f"the sound lasts {seconds:.1f} seconds; at most {self.max_seconds:g} are taken",
                where=where,
                hint="cut it, or raise max_seconds",
            )
        if samples > _MOST_SAMPLES:
            raise MediaError(
                f"the sound has more than {_MOST_SAMPLES} samples in all channels",
                where=where,
                hint="cut it, or bring it to a lower rate",
            )

    def _joined(self, parts: list[Sound], where: str) -> Sound:
        """Sounds of one file, one after another."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        samples = sum(part.channels.size for part in parts)
        self._check_length(sum(part.seconds for part in parts), samples, where)
        if any((p.rate, len(p.channels)) != (first.rate, len(first.channels)) for p in parts):
            raise _differ(where)
        return Sound(np.concatenate([part.channels for part in parts], axis=1), first.rate)

    def _decode(self, content: bytes, where: str) -> Sound:
        soundfile = needed("soundfile", "sounds")
        content = unstated(content)
        try:
            file = soundfile.SoundFile(io.BytesIO(content))
        except soundfile.LibsndfileError:
            return self._by_pyav(content, where)
        with file:
            if file.subtype.startswith("MPEG"):
                return self._by_pyav(content, where, "mp3" if file.format == "MP3" else None)
            try:
                return self._by_soundfile(file, where)
            except soundfile.LibsndfileError as error:
                raise _damaged(error, where) from None

    def _by_soundfile(self, file: Any, where: str) -> Sound:
        file.seekable = lambda: (
            False
        )  # it would seek behind every piece, which not every format can
        pieces, total = [], 0
        shape = (max(1, _PIECE // file.channels), file.channels)
        while len(piece := file.read(out=np.empty(shape, np.float32))):
            pieces.append(piece)
            total += len(piece)
            self._check_length(total / file.samplerate, total * file.channels, where)
        samples = np.concatenate(pieces) if pieces else np.empty((0, file.channels), np.float32)
        return Sound(np.ascontiguousarray(samples.T), int(file.samplerate))

    def _by_pyav(self, content: bytes, where: str, format: str | None = None) -> Sound:
        from omnimix.media.containers import decoded, opened

        formats = f"the formats are {_FORMATS}"
        with opened(content, "audio", where, formats, format) as (container, stream):
            rate = int(stream.codec_context.sample_rate or 0)
            if not _RATES[0] <= rate <= _RATES[1]:
                raise MediaError("the sound names no usable rate", where=where)
            av = needed("av", "sounds")
            plain = av.AudioResampler(format="fltp", rate=rate)
            parts: list[np.ndarray] = []
            total = 0
            for frame in decoded(container, stream, "sound", where, loose=format == "mp3"):
                try:
                    pieces = plain.resample(frame)
                except ValueError:
                    raise _differ(where) from None
                parts += [piece.to_ndarray() for piece in pieces]
                if parts and len(parts[-1]) != len(parts[0]):
                    raise _differ(where)
                total += sum(piece.samples for piece in pieces)
                self._check_length(total / rate, total * len(parts[-1]) if parts else 0, where)
            parts += [piece.to_ndarray() for piece in plain.resample(None)]
        if not parts:
            raise MediaError("the sound has no samples", where=where, hint="check its source")
        return Sound(np.concatenate(parts, axis=1), rate)


def _plain(data: Any) -> Any:
    """`(samples, rate)`, or what a file is named by."""
    if not isinstance(data, Mapping):
        return data
    if data.get("array") is not None:
        return data["array"], data.get("sampling_rate")
    return data["bytes"] if data.get("bytes") is not None else data.get("path")


def _crops(data: Any, where: str) -> tuple[int, ...] | None:
    crops = data.get("crops") if isinstance(data, Mapping) else None
    if crops is None:
        return None
    numbers = [crops] if isinstance(crops, int) else list(crops)
    if not numbers or not all(isinstance(start, int) and start >= 0 for start in numbers):
        raise MediaError(
            "the crops are whole numbers from 0",
            where=where,
            hint='write {"path": ..., "crops": [0, 7]}',
        )
    return tuple(numbers)


def _from_samples(array: Any, rate: Any = None, *rest: Any, where: str) -> Sound:
    samples = np.asarray(array)
    if isinstance(rate, np.ndarray) and not isinstance(array, np.ndarray):
        samples, rate = rate, array  # some libraries give the rate first
    whole = isinstance(rate, int | np.integer) or (isinstance(rate, float) and rate.is_integer())
    if rest or not whole or not _RATES[0] <= rate <= _RATES[1]:
        raise MediaError(
            f"samples need their rate, a whole number of Hz between {_RATES[0]} and {_RATES[1]}",
            where=where,
            hint="give (samples, rate)",
        )
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2 or samples.shape[0] > _MOST_CHANNELS:
        raise MediaError(
            f"an array of shape {list(samples.shape)} is no sound",
            where=where,
            hint=f"give [samples] or [channels, samples] with at most {_MOST_CHANNELS} channels",
        )
    return Sound(_scaled(samples, where), int(rate))


def _scaled(samples: np.ndarray, where: str) -> np.ndarray:
    if np.issubdtype(samples.dtype, np.floating):
        return samples.astype(np.float32)
    if samples.dtype == np.uint8:  # as in a WAV file of 8 bits
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype in (np.int16, np.int32):
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    raise MediaError(
        f"the samples are {samples.dtype}",
        where=where,
        hint="give floats between -1 and 1, or int16",
    )


def _differ(where: str) -> MediaError:
    return MediaError(
        "the file holds sounds of different rates or channels, one after another",
        where=where,
        hint="convert it to one sound",
    )


def _damaged(error: Exception, where: str) -> MediaError:
    reason = str(error).strip().splitlines()[-1][:120].rstrip(".") if str(error).strip() else ""
    return MediaError(
        f"the sound is damaged and cannot be decoded ({reason or type(error).__name__})",
        where=where,
        hint="export it again",
    )
