"""xGen-MM's README in its own words: the settings of its notebook and trainer become a recipe.

>>> from omnimix.families.xgen_mm.face import XGenWords
>>> words = XGenWords(num_vision_tokens=128, image_aspect_ratio="anyres", ckpt_pth="base_model_weight.pt")
>>> words.recipe()  # doctest: +SKIP
>>> omnimix.load(**words.arguments())  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from omnimix.checkpoints import base, parts as places
from omnimix.checkpoints.base import Parts, Release
from omnimix.compose.recipe import Recipe
from omnimix.config import Spec
from omnimix.errors import CheckpointError
from omnimix.families.xgen_mm import folder as xgen_mm, recipe as xgen_recipe
from omnimix.families.xgen_mm.recipe import LM_ID, VISION_ID, Facts
from omnimix.media.tiling import GRIDS


class XGenWords(Spec):
    """The words of the README, with the defaults of its notebook.

    The trainer's own defaults differ (64 tokens, `pad`): write those out where a file was trained by them.

    Attributes:
        model_family: `xgenmm_v1` is the only one that the reference has weights for.
        lm_path: hub id or folder of Phi-3.
        vision_encoder_path: hub id or folder of SigLIP.
        vision_encoder_pretrained: `google`, kept since the notebook writes it.
        num_vision_tokens: latents of the resampler; another number than the checkpoint's is refused.
        image_aspect_ratio: `anyres`, `pad`, or anything else for a plain resize.
        anyres_patch_sampling: whether each tile passes the resampler alone.
        anyres_grids: columns and rows of any-res.
        ckpt_pth: a trainer's file, its folder, a bare state dict or a hub folder; None for the recipe alone.
        resampler_heads: of a resampler of another size than the released one; no file tells it.
    """

    model_family: Literal["xgenmm_v1"] = "xgenmm_v1"
    lm_path: str = LM_ID
    vision_encoder_path: str = VISION_ID
    vision_encoder_pretrained: str = "google"
    num_vision_tokens: int = 128
    image_aspect_ratio: str = "anyres"
    anyres_patch_sampling: bool = True
    anyres_grids: tuple[tuple[int, int], ...] = GRIDS
    ckpt_pth: str | None = None
    resampler_heads: int | None = None

    def recipe(self) -> Recipe:
        """The model that these words describe; of the checkpoint where one is named.

        Raises:
            CheckpointError: a part that cannot be had, or a checkpoint of other sizes.
        """
        return self.release().recipe if self.ckpt_pth is not None else self._fresh()

    def release(self) -> Release:
        """The checkpoint, ready for `omnimix.checkpoints.reading.load`.

        Raises:
            CheckpointError: none is named, it is no xGen-MM, or its sizes are others.
        """
        if self.ckpt_pth is None:
            raise CheckpointError(
                "no checkpoint is named", where="ckpt_pth", hint="set ckpt_pth to a file or folder"
            )
        return base.open_release(Path(self.ckpt_pth), self._parts(), xgen_mm.XGenMM.name)

    def arguments(self) -> dict[str, Any]:
        """Keywords of `omnimix.load`."""
        parts = self._parts()
        return {"name_or_folder": self.ckpt_pth, "parts": parts.places, **parts.words}

    def _parts(self) -> Parts:
        words: dict[str, Any] = {
            "num_vision_tokens": self.num_vision_tokens,
            "image_aspect_ratio": self.image_aspect_ratio,
            "anyres_patch_sampling": self.anyres_patch_sampling,
            "anyres_grids": self.anyres_grids,
        }
        if self.resampler_heads is not None:
            words["heads"] = self.resampler_heads
        return Parts({"llm": self.lm_path, "vision": self.vision_encoder_path}, words)

    def _fresh(self) -> Recipe:
        folder = places.folder(self.lm_path, "llm", places.CONFIGS)
        tokenizer, first, add_bos = xgen_recipe.tokenizer(folder)
        vision = xgen_mm.vision_config(self.vision_encoder_path)
        resampler = dict(xgen_recipe.RESAMPLER)
        if self.resampler_heads is not None:
            resampler["heads"] = self.resampler_heads
        facts = Facts(
            text=xgen_recipe.text_words(places.config(folder, "language model")),
            vision=vision,
            tokenizer=tokenizer,
            own_tokens=first,
            latents=self.num_vision_tokens,
            resampler=resampler,
            aspect=self.image_aspect_ratio,
            sampling=self.anyres_patch_sampling,
            grids=self.anyres_grids,
            add_bos=add_bos,
        )
        return xgen_recipe.build(facts, self.model_family, "the words of xGen-MM")
