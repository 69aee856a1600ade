"""The endless data set: scenes from a seed, each with a conversation about it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from omnimix.errors import OmnimixError, RegistryError
from omnimix.types import Media, Sample, Turn
from omnimix_scenes import pairs
from omnimix_scenes.ask_lessons import LESSONS
from omnimix_scenes.drawing import draw
from omnimix_scenes.plans import ASKERS, KINDS, NAMED_SHARE, asked_of, pictures, seen_of
from omnimix_scenes.question import Question
from omnimix_scenes.vocab import TASKS
from omnimix_scenes.world import Pair, Scene


class Scenes:
    """Conversations about drawn pictures, endless: item i depends on (seed, split, i) alone.

    Args:
        seed: another seed gives other pictures.
        split: "train", or "heldout" with pictures, combinations and words that train never has.
        questions: the most questions of a conversation.
        tasks: the tasks to ask, all by default; lessons (`ask_lessons`) may be named as well. Where a
            lesson is named, a conversation takes as many questions as `questions` says.
        single: only conversations about one picture, never about two.
        kinds: the kinds of pictures of conversations ("shapes", "mixed", "words", "chart", "pair"), all
            by default; and "page", a page full of words, which is for lessons and drawn only when named.

    Raises:
        RegistryError: a task or kind that does not exist.
        OmnimixError: nothing is left to ask.
    """

    def __init__(
        self,
        seed: int = 0,
        split: Literal["train", "heldout"] = "train",
        questions: int = 6,
        tasks: Sequence[str] | None = None,
        single: bool = False,
        kinds: Sequence[str] | None = None,
    ) -> None:
        if split not in ("train", "heldout"):
            raise RegistryError(
                f"unknown split {split!r}", where="Scenes", hint='use "train" or "heldout"'
            )
        if questions < 1:
            raise OmnimixError("questions must be at least 1", where="Scenes")
        for task in tasks or ():
            _known(task, (*TASKS, *LESSONS))
        for kind in kinds or ():
            if kind not in KINDS:
                raise RegistryError(
                    f"unknown kind {kind!r}",
                    where="Scenes",
                    hint=f"the kinds are {', '.join(KINDS)}",
                )
        self.seed = seed
        self.split = split
        self.questions = questions
        self.tasks = tuple(TASKS if tasks is None else tasks)
        self.single = single
        weights = {
            name: {
                task: weight
                for task, weight in (kind.tasks | kind.lessons).items()
                if task in self.tasks
            }
            for name, kind in KINDS.items()
            if not (single and name == "pair")
            and (kind.share > 0 if kinds is None else name in kinds)
        }
        self._dense = any(task in LESSONS for task in self.tasks)
        self._kinds = {name: tasks for name, tasks in weights.items() if tasks}
        if not self._kinds:
            raise OmnimixError(
                "these tasks leave nothing to ask",
                where="Scenes",
                hint="name a task; compare needs single=False",
            )

    def __getitem__(self, index: int) -> Sample:
        """The conversation of one index: picture and first question, answer, next question..."""
        seen, questions = self._item(index)
        media = tuple(Media.image(draw(scene)) for scene in pictures(seen))
        turns = []
        for question in questions:
            turns += [Turn("user", (*media, *question.prompt)), Turn("assistant", question.answer)]
            media = ()
        meta = {"kind": pictures(seen)[0].kind, "tasks": tuple(q.task for q in questions)}
        return Sample(tuple(turns), f"scenes-{self.split}-{self.seed}-{index}", meta)

    def scene(self, index: int) -> Scene:
        """The ground truth of one index; of two pictures, that of the first."""
        return pictures(self._item(index)[0])[0]

    def question(self, task: str, index: int) -> Sample:
        """One question of a task about a picture of its own, with what `score` needs in `meta`.

        `meta` holds task, answer (words only), kind, choices, heldout (whether it turns on something
        never seen in training), boxes and for find box; for read also letters, their number.

        Raises:
            RegistryError: a task that does not exist.
            IndexError: a negative index.
        """
        _known(task)
        rng = self._random(index, task)
        question = None
        while question is None:
            seen, question = asked_of(rng, task, self.split)
        media = tuple(Media.image(draw(scene)) for scene in pictures(seen))
        meta: dict[str, object] = {
            "task": task,
            "answer": question.text,
            "kind": question.kind,
            "choices": question.choices,
            "heldout": question.heldout,
            "boxes": question.boxes,
        }
        if task == "find":
            meta["box"] = question.boxes[0]
        if task == "read":
            meta["letters"] = len(question.text)
        turns = (Turn("user", (*media, *question.prompt)), Turn("assistant", question.answer))
        return Sample(turns, f"scenes-{self.split}-{self.seed}-{task}-{index}", meta)

    def _random(self, index: int, use: str) -> random.Random:
        """The source of all chance of one index; text seeds do not depend on the process."""
        if index < 0:
            raise IndexError(f"scenes are numbered from 0, not {index}")
        return random.Random(f"omnimix-scenes/{self.seed}/{self.split}/{use}/{index}")

    def _item(self, index: int) -> tuple[Scene | Pair, list[Question]]:
        rng = self._random(index, "item")
        shares = [KINDS[name].share or NAMED_SHARE for name in self._kinds]
        questions: list[Question] = []
        # Some tasks do not fit some scenes (a description of eight things): then another is drawn.
        while not questions:
            kind = rng.choices(tuple(self._kinds), shares)[0]
            seen = seen_of(rng, kind, self.split)
            questions = self._converse(rng, kind, seen)
        return seen, questions

    def _converse(self, rng: random.Random, kind: str, seen: Scene | Pair) -> list[Question]:
        """Different questions that fit what is seen, in random order."""
        weights = self._kinds[kind]
        wanted = self.questions
        if not self._dense:
            wanted = min(wanted, rng.randint(KINDS[kind].least, KINDS[kind].most))
        names = tuple(weights)
        often = -(-wanted // len(names)) + 1
        drawn = rng.choices(names, tuple(weights.values()), k=3 * wanted)
        if kind == "mixed" and "read" in weights:
            drawn[0] = "read"
        chosen: dict[tuple[str, ...], Question] = {}
        used = dict.fromkeys(names, 0)
        for task in drawn:
            if len(chosen) == wanted:
                break
            if used[task] == often:
                continue
            if isinstance(seen, Pair):
                question = pairs.compare(rng, seen)
            else:
                question = ASKERS[task](rng, seen)
            if question is not None and question.key not in chosen:
                chosen[question.key] = question
                used[task] += 1
        questions = list(chosen.values())
        rng.shuffle(questions)
        # A description gives away the other answers, so it comes last half of the time.
        if rng.random() < 0.5:
            questions.sort(key=lambda question: question.task in ("describe", "list"))
        # Other questions name the printed words ("Where is the word MAPLE?"), so reading comes first:
        # an answer that could be copied from the text above teaches nothing about the picture.
        # For the same reason letters come before words, and a census of all that is there comes last.
        turn = {"spell": 0, "read": 1, "census": 3}
        questions.sort(key=lambda question: turn.get(question.task, 2))
        return questions


def _known(task: str, names: Sequence[str] = TASKS) -> None:
    if task not in names:
        raise RegistryError(
            f"unknown task {task!r}", where="Scenes", hint=f"the tasks are {', '.join(names)}"
        )
