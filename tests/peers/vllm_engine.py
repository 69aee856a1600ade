"""vLLM over `omnimix export --vllm`: greedy ids from our embeddings beside torch's. Run `python -m tests.peers.vllm_engine`."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tests.peers import engines


def write(folder: Path, given: list[Tensor], count: int) -> list[list[int]]:
    """By vLLM, whose prompts are embeddings."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(folder),
        dtype="float32",
        enable_prompt_embeds=True,
        enforce_eager=True,
        max_model_len=128,
    )
    options = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
    found = engine.generate([{"prompt_embeds": one} for one in given], options)
    return [list(one.outputs[0].token_ids) for one in found]


if __name__ == "__main__":
    engines.look("vllm", "vllm")
    engines.compare("vllm", write)
