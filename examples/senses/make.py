"""Makes the pictures, the sound and the clip of this folder; run once, the files are kept."""

from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image, ImageDraw

from omnimix_scenes import Scenes

HERE = Path(__file__).parent


def main() -> None:
    for name, index in (("left.png", 3), ("right.png", 8)):
        Scenes(21, "heldout").question("list", index).media("image")[0].data.save(HERE / name)
    # Two seconds of a tone that rises, as a voice does at the end of a question.
    seconds = np.linspace(0, 2, 32000, endpoint=False)
    tone = 0.3 * np.sin(2 * np.pi * (220 * seconds + 60 * seconds**2)) * np.hanning(32000)
    soundfile.write(HERE / "question.wav", tone, 16000, subtype="PCM_16")
    with av.open(str(HERE / "clip.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for step in range(16):
            picture = Image.new("RGB", (96, 64), (236, 236, 228))
            ImageDraw.Draw(picture).ellipse((5 * step, 20, 5 * step + 20, 40), fill=(200, 40, 40))
            file.mux(stream.encode(av.VideoFrame.from_image(picture)))
        file.mux(stream.encode())


if __name__ == "__main__":
    main()
