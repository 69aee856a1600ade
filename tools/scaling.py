"""Write the table of docs/scaling.md from the functions of `omnimix plan`: python tools/scaling.py"""

from __future__ import annotations

import re
from pathlib import Path

from omnimix.parallel.layout import ParallelSpec
from omnimix.train.estimate import Machine, Way
from omnimix.train.planning import StageEstimate, plan_file

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
FILE, WORDS = "prismatic_one_stage.train.yaml", ("recipe=prism_dinosiglip",)
LARGER = 1024
"""Records of a step on 512 devices, of which each has to have one."""

Row = tuple[int, int, StageEstimate]


def numbers() -> list[Row]:
    """The stage on 8, 64 and 512 devices of 80 GB, eight in a machine: devices, batch size, plan."""
    (one,) = plan_file(FILE, (*WORDS, "parallel.shard=full"), Machine(8, 80e9))
    found = []
    for devices, batch, shard in ((8, 128, "full"), (64, 128, "full"), (512, LARGER, "hybrid")):
        machine = Machine(devices, 80e9, devices // 8)
        stage = one.stage.model_copy(update={"batch_size": batch})
        one.estimator.stage = stage
        parts = max(1, batch // (2 * devices))
        way = Way(ParallelSpec(shard=shard), False, parts)  # type: ignore[arg-type]
        made = StageEstimate(stage, 0, one.rows, one.estimator, machine, way)
        found.append((devices, batch, made))
    return found


def table(rows: list[Row]) -> str:
    """As markdown."""
    head = (
        "| devices | words | batch | weights | gradients | optimizer | activations | logits | buffers | overhead | "
        "all, GB | sent a step, GB | FLOP a step | s a step | hours for 665,298 rows |"
    )
    said = [head, "|---" * 15 + "|"]
    for devices, batch, plan in rows:
        plan.estimator.stage = plan.stage
        memory, sent = plan.memory, sum(plan.estimator.traffic(plan.way, plan.machine).values())
        causes = " | ".join(f"{value / 1e9:.2f}" for value in memory.causes().values())
        hours = 665298 // batch * plan.seconds / 3600
        shard = plan.way.parallel.shard
        said.append(
            f"| {devices} | `shard: {shard}`, {plan.way.parts} x {plan.estimator.rows(plan.way, plan.machine)} rows | "
            f"{batch} | {causes} | {memory.total / 1e9:.2f} | {sent / 1e9:.0f} | "
            f"{plan.estimator.flops(plan.way):.2e} | {plan.seconds:.2f} | {hours:.1f} |"
        )
    return "\n".join(said)


if __name__ == "__main__":
    page = PAGE.read_text()
    made = table(numbers())
    PAGE.write_text(re.sub(r"\| devices \|.*?(?=\n\n)", lambda _: made, page, flags=re.S))
    print(made)
