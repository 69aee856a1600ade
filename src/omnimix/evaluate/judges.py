"""A judge behind a server: its prompt, model and raw replies stay beside the answers; without one nothing is scored."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from omnimix.disk import write_text
from omnimix.errors import OmnimixError, reason
from omnimix.evaluate.answers import AnsweredLine, BenchmarkResult
from omnimix.evaluate.benchmark import BenchmarkSpec, Judge
from omnimix.evaluate.judging import UNREADABLE, marks, relative
from omnimix.evaluate.measure import Score, grouped
from omnimix.evaluate.server import Server

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
PLACES = ("{question}", "{reference}", "{answer}")


def prompted(spec: BenchmarkSpec, file: Path) -> BenchmarkSpec:
    """The benchmark with the text of a file as its judge's prompt, with each of `PLACES` in it.

    Raises:
        OmnimixError: the benchmark has no judge, the file cannot be read, or lacks a place.
    """
    if spec.judge is None:
        raise OmnimixError(f"no judge scores {spec.title}", hint="leave --judge-prompt away")
    try:
        text = file.read_bytes().decode()  # line ends as they are, for the hash
    except (OSError, ValueError) as error:
        raise OmnimixError(f"it cannot be read ({reason(error)})", where=str(file)) from None
    if missing := [place for place in PLACES if place not in text]:
        raise OmnimixError(
            f"the judge's prompt has no {' and no '.join(missing)}",
            where=str(file),
            hint="what a question is about is written where these stand",
        )
    return spec.model_copy(update={"judge": spec.judge.model_copy(update={"prompt": text})})


def judged(
    result: BenchmarkResult, spec: BenchmarkSpec, answers: Path, judge: Server | None
) -> BenchmarkResult:
    """The result with a judge's score in place of a rule's.

    Replies are kept in `ANSWERS.judge.jsonl`, the prompt in `ANSWERS.judge-HASH.txt`, where HASH begins its SHA-256;
    what was judged before, by the same prompt and model, is not asked again. A reply that cannot be read leaves its answer out of the score, and is counted.

    Args:
        judge: None where there is none; a stored reply counts all the same.
    """
    assert spec.judge is not None
    whole = hashlib.sha256(spec.judge.prompt.encode()).hexdigest()
    prompt = whole[:12]
    place = answers.with_name(answers.name + ".judge.jsonl")
    known = _stored(place, prompt, judge.model if judge else None)
    if judge is not None:
        write_text(answers.with_name(f"{answers.name}.judge-{prompt}.txt"), spec.judge.prompt)
    result = replace(result, pinned=result.pinned | {"judge_prompt": whole})
    replies: list[tuple[AnsweredLine, str]] = []
    why = "no judge is named (--judge URL --judge-model NAME)"
    for item in result.items:
        asked = _asked(spec.judge, item)
        name = hashlib.sha256(asked.encode()).hexdigest()[:16]
        if name not in known and judge is not None:
            try:
                known[name] = judge.ask(asked)
            except OmnimixError as error:
                why, judge = error.sentence(), None
                continue
            _keep(
                place, {"prompt": prompt, "model": judge.model, "asked": name, "reply": known[name]}
            )
        if name in known:
            replies.append((item, known[name]))
    if len(replies) < len(result.items):
        missing = (
            f"{len(result.items) - len(replies)} of {len(result.items)} answers are not judged"
        )
        return replace(result, score=Score(0.0), measure="judge", skipped=f"{missing}: {why}")
    return _summed(result, spec.judge, prompt, replies)


def _summed(
    result: BenchmarkResult, judge: Judge, prompt: str, replies: list[tuple[AnsweredLine, str]]
) -> BenchmarkResult:
    read = [(item, _read(judge, reply)) for item, reply in replies]
    sound = [(item, mark) for item, mark in read if mark is not None]
    failed = [
        f"{item.line['id']}: the judge's reply cannot be read"
        for item, mark in read
        if mark is None
    ]
    pinned = result.pinned | {"measure": f"judge@{prompt}"}
    found = replace(
        result,
        measure="judge",
        items=tuple(item for item, _ in sound),
        failed=(*result.failed, *failed),
        pinned=pinned,
    )
    if not sound:
        return replace(found, score=Score(0.0), skipped="no reply of the judge can be read")
    references = [item.reference for item, _ in sound if item.reference is not None]
    each = tuple(mark[1] / mark[0] if judge.reads == "pair" else mark[1] for _, mark in sound)
    if judge.reads == "pair":
        names = sorted({one.group for one in references})
        groups = tuple(
            (
                name,
                relative(
                    [m for (_, m), one in zip(sound, references, strict=True) if one.group == name]
                ),
            )
            for name in names
        )
        return replace(found, score=Score(relative([m for _, m in sound]), each, groups, None))
    return replace(found, score=Score(fmean(each), each, grouped(each, references)))


def _read(judge: Judge, reply: str) -> tuple[float, float] | None:
    """The marks of reference and answer, as shares of the best."""
    if judge.reads == "pair":
        pair = marks(reply.strip())
        return None if pair == UNREADABLE or pair[0] <= 0 else pair
    found = _NUMBER.search(reply)
    value = float(found[0]) / judge.most if found else -1.0
    return (1.0, value) if 0 <= value <= 1 else None


def _asked(judge: Judge, item: AnsweredLine) -> str:
    line = item.line
    words = {"question": line["question"], "answer": line["answer"]}
    words["reference"] = "\n".join(line["references"])
    # Curly brackets in the words themselves are no places.
    return re.sub(r"\{(question|reference|answer)\}", lambda found: words[found[1]], judge.prompt)


def _stored(place: Path, prompt: str, model: str | None) -> dict[str, str]:
    try:
        lines = place.read_text(encoding="utf-8").split("\n")
    except OSError:
        return {}
    found = {}
    for line in lines:
        try:
            said: dict[str, Any] = json.loads(line)
            if said["prompt"] == prompt and model in (None, said["model"]):
                found[str(said["asked"])] = str(said["reply"])
        except (ValueError, KeyError, TypeError):
            continue  # torn by a stop
    return found


def _keep(place: Path, said: dict[str, Any]) -> None:
    torn = place.exists() and place.read_bytes()[-1:] not in (b"", b"\n")
    with place.open("a", encoding="utf-8", newline="\n") as file:
        file.write(("\n" if torn else "") + json.dumps(said) + "\n")
        file.flush()
        os.fsync(file.fileno())
