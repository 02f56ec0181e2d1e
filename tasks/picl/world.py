"""A made-up world of paragraphs in which every intrinsic task is known.

A paragraph is six words and a line end:

    form  mark  topic  mark  key  answer

A task is four of 96 marks and a map from the four classes of keys to four of 16 answers. A paragraph
shows two of its task's marks, a form and a topic word that say nothing about the task, and one of four
synonyms of a class with that class's answer. Alone, the answer of an unknown task cannot be guessed; a
paragraph of the same task whose key is of the same class gives it away. Documents gather paragraphs by
topic, as real ones do, with the task drawn anew for each.

Tasks 0 .. corpus-1 make up the corpus. The retriever is trained on labelled tasks: the first half are
tasks of the corpus ("seen"), the others are found nowhere else. Few-shot tests use tasks that neither
the corpus nor the retriever ever showed.
"""

from dataclasses import dataclass

import numpy as np

FORMS, MARKS, TOPICS, CLASSES, SYNONYMS, ANSWERS = 24, 96, 4, 4, 4, 16
WORDS_PER_TOPIC = 6
MARKS_PER_TASK = 4

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def _lexicon() -> dict[str, list[str]]:
    """Made-up words of five letters, the same in every world."""
    draw = np.random.default_rng(2305_09137)
    counts = {
        "form": FORMS,
        "mark": MARKS,
        "topic": TOPICS * WORDS_PER_TOPIC,
        "key": CLASSES * SYNONYMS,
        "answer": ANSWERS,
    }
    found: list[str] = []
    while len(found) < sum(counts.values()):
        word = "".join(draw.choice([*letters]) for letters in (_CONSONANTS, _VOWELS) * 2)
        word += draw.choice([*_CONSONANTS])
        if word not in found:
            found.append(word)
    words = iter(found)
    return {kind: [next(words) for _ in range(count)] for kind, count in counts.items()}


LEXICON = _lexicon()
WORDS = {kind: np.array(words) for kind, words in LEXICON.items()}


@dataclass(frozen=True)
class Task:
    """marks: (4,) of MARKS. answers: (4,) of ANSWERS, by class of key."""

    marks: np.ndarray
    answers: np.ndarray


class World:
    """The tasks of one seed, and paragraphs of them.

    corpus_tasks: whose paragraphs the corpus is made of. labelled_tasks: whose rows the retriever
    learns from, half of them of the corpus. test_tasks: for few-shot tests alone.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        corpus_tasks: int = 200,
        labelled_tasks: int = 100,
        test_tasks: int = 40,
    ):
        for name, value in (
            ("corpus_tasks", corpus_tasks),
            ("labelled_tasks", labelled_tasks),
            ("test_tasks", test_tasks),
        ):
            if value < 2:
                raise ValueError(f"{name}: must be at least 2, got {value}")
        if labelled_tasks // 2 > corpus_tasks:
            raise ValueError(
                f"labelled_tasks: half of {labelled_tasks} are of the corpus, which has {corpus_tasks}"
            )
        self.seed = seed
        shared = labelled_tasks // 2
        end = corpus_tasks + labelled_tasks - shared
        self.corpus_tasks = range(corpus_tasks)
        self.labelled_tasks = [*range(shared), *range(corpus_tasks, end)]
        self.test_tasks = range(end, end + test_tasks)
        self.tasks = self._draw(end + test_tasks)

    @property
    def seen(self) -> set[int]:
        """Tasks of the corpus that the retriever was trained on."""
        return set(self.labelled_tasks) & set(self.corpus_tasks)

    @property
    def fingerprint(self) -> dict[str, int]:
        """What every paragraph depends on."""
        return {
            "world": 1,
            "seed": self.seed,
            "corpus": len(self.corpus_tasks),
            "labelled": len(self.labelled_tasks),
            "test": len(self.test_tasks),
        }

    def draws(self, *purpose: int) -> np.random.Generator:
        """Random numbers for one purpose, the same in every process."""
        return np.random.default_rng((self.seed, *purpose))

    def _draw(self, count: int) -> list[Task]:
        draw = self.draws(0)
        known: set[tuple[int, ...]] = set()
        tasks: list[Task] = []
        while len(tasks) < count:
            marks = draw.choice(MARKS, MARKS_PER_TASK, replace=False)
            if (name := tuple(sorted(marks))) not in known:
                known.add(name)
                tasks.append(Task(marks, draw.choice(ANSWERS, CLASSES, replace=False)))
        return tasks

    def contents(
        self, draw: np.random.Generator, tasks: np.ndarray, *, topics: np.ndarray | None = None
    ) -> np.ndarray:
        """Paragraphs of the given tasks as numbers of (mark, topic, mark, key, answer), (n, 5).

        topics: of each paragraph; None: any.
        """
        n = len(tasks)
        chosen = draw.permuted(np.tile(np.arange(MARKS_PER_TASK), (n, 1)), axis=1)[:, :2]
        marks = np.stack([self.tasks[t].marks for t in tasks])
        answers = np.stack([self.tasks[t].answers for t in tasks])
        topics = draw.integers(TOPICS, size=n) if topics is None else topics
        words = topics * WORDS_PER_TOPIC + draw.integers(WORDS_PER_TOPIC, size=n)
        kinds, row = draw.integers(CLASSES, size=n), np.arange(n)
        keys = kinds * SYNONYMS + draw.integers(SYNONYMS, size=n)
        return np.stack(
            [marks[row, chosen[:, 0]], words, marks[row, chosen[:, 1]], keys, answers[row, kinds]],
            1,
        )


def spell(contents: np.ndarray) -> list[tuple[str, str]]:
    """The text (mark topic mark key) and the answer of each row of `World.contents`."""
    kinds = ("mark", "topic", "mark", "key", "answer")
    columns = [WORDS[kind][contents[:, i]].tolist() for i, kind in enumerate(kinds)]
    return [(" ".join(row[:-1]), row[-1]) for row in zip(*columns)]
