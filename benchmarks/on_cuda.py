"""Whether a GPU gives the numbers of the CPU: answers, losses packed and padded, the kernels that only it has.

Run `python -m benchmarks.on_cuda`; prints one line a check and leaves with 1 where one fails.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import llava
from omnimix.compose import loss as losses
from omnimix.compose.model import MultimodalLM
from omnimix.generate import folder
from omnimix.generate.assistant import Assistant
from omnimix.language import packed
from omnimix.train import optim
from omnimix.train.settings import OptimizerSpec
from omnimix.types import Media, Turn

VARLEN = "bf16, packed by one kernel as padded"
SIZE = llava.Size((256, 4, 8, 512), (64, 3, 4, 128), 56, 14, 500, 4)


def models() -> tuple[MultimodalLM, MultimodalLM]:
    """The same weights on the CPU and on the GPU."""
    torch.manual_seed(0)
    model = llava.ours(SIZE, llava.peer(SIZE)).train()
    return model, copy.deepcopy(model).to("cuda")


def taught(
    model: MultimodalLM, pack: bool, bf16: bool = False, skip: bool = True
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of four rows."""
    rows = llava.rows(SIZE, 4, alike=False)
    batch = llava.our_batch(rows, model.recipe, pack).to(model.device)
    model.zero_grad()
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        words = {**batch.inputs(mask=False), "labels": batch.labels, "skip_logits": skip}
        found = model(**words).loss
    found.backward()
    grads = {n: p.grad.float().cpu() for n, p in model.named_parameters() if p.grad is not None}
    return found.item(), grads


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The distance of two gradients over the length of the second; all parameters are one vector."""
    far = sum(float((one[n] - other[n]).square().sum()) for n in other)
    return float((far / sum(float(grad.square().sum()) for grad in other.values())) ** 0.5)


def answers() -> str:
    """nano answers alike."""
    said: list[list[str]] = []
    from PIL import Image

    picture = Image.new("RGB", (64, 48), (200, 30, 30))
    for device in ("cpu", "cuda"):
        model, processor = folder.read(folder.find("nano"), torch.device(device))
        assistant = Assistant(model.to(device).eval(), processor)
        asked = ("What is there?", "How many things are there?")
        turns = [[Turn("user", (Media.image(picture), text))] for text in asked]
        said.append([assistant.reply(one).text for one in turns])
    assert said[0] == said[1], said
    return repr(said[0])


def checks() -> dict[str, Callable[[], str]]:
    """Every check by its name; each says what it found, or raises."""
    cpu, gpu = models()

    def near(a: tuple[float, Any], b: tuple[float, Any], loss: float, grads: float) -> str:
        difference, distance = abs(a[0] - b[0]) / max(1, abs(b[0])), apart(a[1], b[1])
        assert difference <= loss and distance <= grads, (difference, distance)
        return f"loss {difference:.1e}, gradients {distance:.1e} apart"

    def chunked() -> str:
        whole, losses.CHUNK = losses.CHUNK, 7 * SIZE.vocabulary
        try:
            return near(taught(gpu, True), taught(gpu, True, skip=False), 1e-6, 1e-5)
        finally:
            losses.CHUNK = whole

    def varlen() -> str:
        import torch.nn.attention.varlen as kernels

        query = torch.empty(1, 8, 4, 32, dtype=torch.bfloat16, device="cuda")
        assert packed._varlen(query) is not None
        calls: list[int] = []
        plain = kernels.varlen_attn

        def counted(*tensors: Any, **words: Any) -> Any:
            calls.append(1)
            return plain(*tensors, **words)

        kernels.varlen_attn = counted
        try:
            # bf16 has 8 bits: padded and packed round differently.
            said = near(taught(gpu, True, True), taught(gpu, False, True), 5e-3, 8e-2)
        finally:
            kernels.varlen_attn = plain
        assert len(calls) == SIZE.language[1], calls
        return f"{said}; {len(calls)} calls"

    def fused() -> str:
        for model in (cpu, gpu):
            optimizer = optim.optimizer(model, OptimizerSpec(lr=1e-3))
            taught(model, False)
            optimizer.step()
            assert optimizer.defaults["fused"]
        pairs = zip(cpu.parameters(), gpu.parameters(), strict=True)
        # A first step of Adam is the sign of the gradient, so a few of the smallest may turn.
        far = [float(((a - b.cpu()).abs() > 1e-5).float().mean()) for a, b in pairs]
        assert max(far) < 1e-2, max(far)
        return f"{max(far):.1e} of the numbers of a tensor are more than 1e-5 apart"

    return {
        "nano answers as on the CPU": answers,
        "float32, padded, as on the CPU": lambda: near(taught(gpu, False), taught(cpu, False), 1e-4, 1e-2),
        "float32, packed as padded": lambda: near(taught(gpu, True), taught(gpu, False), 1e-5, 1e-3),
        "float32, loss in chunks as whole": chunked,
        VARLEN: varlen,
        "bf16 near float32": lambda: near(taught(gpu, False, True), taught(gpu, False), 2e-2, 2e-1),
        "fused AdamW as on the CPU": fused,
    }  # fmt: skip


def main() -> dict[str, str]:
    """Run all, whatever fails on the way."""
    torch.backends.cuda.matmul.allow_tf32 = False
    said: dict[str, str] = {}
    for name, check in checks().items():
        try:
            said[name] = check()
        except Exception as error:  # the next one says more
            said[name] = f"FAILED: {type(error).__name__}: {error}"[:500]
        print(f"{name}: {said[name]}", flush=True)
    return said


if __name__ == "__main__":
    sys.exit(any(line.startswith("FAILED") for line in main().values()))
