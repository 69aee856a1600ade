"""The scripts of the READMEs on the tiny checkpoints: the import line and the paths are ours, the rest is theirs.

Where there is no GPU the processes talk through gloo and name no device; that is all that is changed besides.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from omnimix.families.sphinx import SPHINXModel
from tests.cases import case_path, golden

ROOT = Path(__file__).parents[3]
SECONDS = 300

ONE_GPU = """
from omnimix.families.sphinx import SPHINXModel
from PIL import Image
import torch

model = SPHINXModel.from_pretrained(pretrained_path="{checkpoint}", with_visual=True)

image = Image.open("{image}")
qas = [["What's in the image?", None]]

with torch.amp.autocast("cuda", dtype=torch.float16, enabled=torch.cuda.is_available()):
    response = model.generate_response(qas, image, max_gen_len=1024, temperature=0.9, top_p=0.5, seed=0)
print(response)

qas[-1][-1] = response
qas.append(["Then how does it look like?", None])
response2 = model.generate_response(qas, image, max_gen_len=1024, temperature=0.9, top_p=0.5, seed=0)
print(response2)
"""

SEVERAL_GPUS = """
from omnimix.families.sphinx import SPHINXModel
from PIL import Image
import torch
import torch.distributed as dist
import multiprocessing as mp

def main(world_size, rank) -> None:
    dist.init_process_group(
        backend="gloo", rank=rank, world_size=world_size, init_method=f"tcp://127.0.0.1:{port}",
    )
    model = SPHINXModel.from_pretrained(
        pretrained_path="{checkpoint}", with_visual=True,
        mp_group=dist.new_group(ranks=list(range(world_size))), {more}
    )
    image = Image.open("{image}")
    qas = [["What's in the image?", None]]
    response = model.generate_response(qas, image, max_gen_len=64, temperature=0, top_p=0.5, seed=0)
    {report}

if __name__ == "__main__":
    mp.set_start_method("spawn")
    for rank in range(2):
        process = mp.Process(target=main, args=(2, rank))
        process.start()
"""

REPORT = """
    import json, pathlib
    from torch.distributed.tensor import DTensor
    parameters = list(model.assistant.model.language.parameters())
    own = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in parameters)
    whole = sum(p.numel() for p in parameters)
    told = {{"response": response, "own": own, "whole": whole}}
    pathlib.Path(f"rank{{rank}}.json").write_text(json.dumps(told))
"""

MARKS = """
from omnimix.families.sphinx import SPHINX_V_Model
from PIL import Image
import os
import torch.distributed as dist

def main() -> None:
    world_size = int(os.environ["WORLD_SIZE"])
    rank = int(os.environ["RANK"])
    dist.init_process_group(
        world_size=world_size, rank=rank, backend="gloo", init_method="env://",
    )
    model = SPHINX_V_Model.from_pretrained(
        pretrained_path="{checkpoint}",
        llama_type="llama_ens5_vp",
        llama_config="{checkpoint}/config.json",
        with_visual=True,
        mp_group={group},
    )
    image = Image.open("{image}")
    qas = [["Please identify the labels of each marked region in the image.", None]]
    vps = [[30, 20, 120, 60], [210, 110, 60, 80]]
    response = model.generate_response(qas, vps, image, max_gen_len=64, temperature=0, top_p=0.5, seed=0)
    print(response, flush=True)

    qas[-1][-1] = response
    qas.append(["Please analyze the relationship between all marked regions in the image.", None])
    response2 = model.generate_response(qas, vps, image, max_gen_len=64, temperature=0, top_p=0.5, seed=0)
    print(response2, flush=True)

if __name__ == "__main__":
    main()
"""


def run(script: str, folder: Path, *launcher: str) -> str:
    """What a script prints, run in a folder of its own."""
    file = folder / "script.py"
    file.write_text(script, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, str(file)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def words(case: str, image: str) -> dict[str, str]:
    folder = case_path(case)
    return {"checkpoint": str(folder / "checkpoint"), "image": str(folder / "inputs" / image)}


def test_one_gpu(tmp_path: Path) -> None:
    out = run(ONE_GPU.format(**words("sphinx/ens5_2shard", "rocket.png")), tmp_path)
    assert len(out.strip().splitlines()) >= 2


def test_a_process_group_holds_one_model_together(tmp_path: Path) -> None:
    """Each of two processes that the script starts itself holds half, and both answer as one does."""
    given = words("sphinx/ens_1shard", "cat.png")
    more = {
        "port": str(free_port()),
        "more": "dtype=torch.float32",
        "report": REPORT.format().strip(),
    }
    run(SEVERAL_GPUS.format(**given, **more), tmp_path)
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    alone = SPHINXModel.from_pretrained(given["checkpoint"], dtype=torch.float32, device="cpu")
    wanted = alone.generate_response([["What's in the image?", None]], given["image"], 64, 0.0)
    for one in told:
        assert one["response"] == wanted
        assert one["own"] < 0.51 * one["whole"]


@pytest.mark.parametrize(
    ("processes", "group"), [(1, "None"), (2, "dist.new_group(ranks=list(range(world_size)))")]
)
def test_marks_with_torchrun(processes: int, group: str, tmp_path: Path) -> None:
    _, facts, _ = golden("sphinx_v/ens5_vp")
    script = MARKS.format(**words("sphinx_v/ens5_vp", "temple.png"), group=group)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    out = run(script, tmp_path, *launcher)
    first, second, *_ = (request["text"] for request in facts["results"]["generate"])
    assert out.count(first) == out.count(second) == processes
