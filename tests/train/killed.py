"""A run that is killed again and again, with other numbers of processes and workers each time.

Called as `killed.py FILE OUT`, where OUT/plan.json lists `{"world", "workers", "kill": [what, count], "overrides"}`. Every try is a
fork of this process, which has imported everything already; each notes what it read in OUT/read.jsonl.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import torch

from omnimix import disk
from omnimix.data import arranged
from omnimix.errors import OmnimixError
from omnimix.train import checkpoint, run
from omnimix.train.proof import Proof

arranged.WINDOW = 7


def once(file: str, out: Path, words: dict[str, Any], rank: int, tried: int) -> None:
    """One process of a try."""
    what, left = words.get("kill") or ("", 0)
    counts = {what: left}

    def due(point: str) -> None:
        counts[point] = counts.get(point, 0) - 1
        # The first rank alone writes; of the others the last one goes.
        if counts[point] == 0 and rank == (0 if what == "sync" else words["world"] - 1):
            os.kill(os.getpid(), signal.SIGKILL)

    take, sync = Proof.take, disk.sync

    def taken(self: Proof, step: int, before: Any, batches: Any) -> None:
        take(self, step, before, batches)
        line = {"try": tried, "step": step, "digests": self.kept[-1][2]}
        with (out / "read.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        due("take")

    def synced(place: Path) -> None:
        due("sync")
        sync(place)

    Proof.take = taken  # type: ignore[method-assign]
    checkpoint.sync = synced  # type: ignore[attr-defined]
    workers = [f"num_workers={words['workers']}"]
    run.train(file, [*workers, *words.get("overrides", ())], out / "run", allow_changes=True)


def main(file: str, out: Path) -> None:
    for tried, words in enumerate(json.loads((out / "plan.json").read_text())):
        children = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        for rank in range(words["world"]):
            child = os.fork()
            if child == 0:
                torch.set_num_threads(1)
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(words["world"])}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                try:
                    once(file, out, words, rank, tried)
                except OmnimixError as error:
                    print(error.sentence(), file=sys.stderr)
                    os._exit(1)
                except BaseException:
                    import traceback

                    traceback.print_exc()
                    os._exit(2)
                os._exit(0)
            children.append(child)
        ends = [os.waitpid(child, 0)[1] for child in children]
        killed = signal.SIGKILL in ends
        assert killed == bool(words.get("kill")), (tried, words, ends)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
