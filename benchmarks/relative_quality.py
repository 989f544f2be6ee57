"""How good answers are beside those of the smallest model: every bundle or route asked the same questions, and judged.

Questions are a file in Vicuna's layout, a JSON object a line with `question_id`, `category`, `text` (and `reference`,
where there is one right answer). The first model named is the one that has 100: relative quality is 100 times the sum
of a model's scores over the sum of the first one's. Judges: `exact` (1 where the answer is the reference), `likelihood:
MODEL` (how likely that language model holds the answer to be after the question, e to the mean log of its tokens), and
`command:PROGRAM`, which reads `{"question", "answer", "category"}` as JSON and prints a number.

    python -m benchmarks.relative_quality questions.jsonl --models runs/small,runs/talk:0.5-1.7,runs/large \\
        --judge command:./ask_gpt.sh --out runs/quality
"""

import argparse
import json
import math
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import tailor
from tailor.backbones import causal
from tailor.backbones.prompts import Instruction, encode
from tailor.errors import DataError, TrainingError, UsageError
from tailor.tasks.language import Language

LONGEST = 2048
"""Tokens of a question and its answer that a judge reads."""


@dataclass(frozen=True)
class Question:
    """One question of the file."""

    number: str
    category: str
    text: str
    reference: str = ""


Judge = Callable[[Question, str], float]


def read(path: Path) -> tuple[Question, ...]:
    """The questions; DataError for a line that is none."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found.append(
                Question(
                    str(row.get("question_id", number)),
                    str(row.get("category", "")),
                    str(row["text"]),
                    str(row.get("reference", "")),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(
                f"line {number} of `{path}` is no question",
                hint='write `{"question_id": 1, "category": "", "text": ""}`',
            ) from None
    if not found:
        raise DataError(f"`{path}` holds no question", hint="give it at least one")
    return tuple(found)


def exact(question: Question, answer: str) -> float:
    """1 where the answer is the reference, spaces at the ends aside."""
    return float(bool(question.reference) and answer.strip() == question.reference.strip())


def likelihood(name: str) -> Judge:
    """e to the mean log-likelihood of the answer's tokens after the question, under a third model."""
    model, tokeniser, task = causal.create(name), causal.tokeniser(name), Language()

    @torch.inference_mode()
    def judge(question: Question, answer: str) -> float:
        rows = torch.tensor(encode(Instruction(question.text, output=answer), tokeniser, LONGEST))
        loss = task.loss(model(rows[:1]), rows[1:])
        return math.exp(-float(loss) / max(task.weight(rows[1:]), 1))

    return judge


def command(line: str) -> Judge:
    """What a program prints that is given question and answer as JSON; TrainingError where it is no number."""

    def judge(question: Question, answer: str) -> float:
        given = json.dumps({"question": question.text, "answer": answer, "category": question.category})
        done = subprocess.run(shlex.split(line), input=given, capture_output=True, text=True, timeout=600)
        try:
            return float(done.stdout.split()[-1])
        except (ValueError, IndexError):
            raise TrainingError(
                f"the judge `{line}` gave no number: {(done.stdout or done.stderr)[-200:]!r}",
                hint="it prints a number on its last line",
            ) from None

    return judge


JUDGES: dict[str, Callable[[str], Judge]] = {"exact": lambda _: exact, "likelihood": likelihood, "command": command}


def judge_of(text: str) -> Judge:
    """The judge of that name; UsageError for an unknown one."""
    name, _, rest = text.partition(":")
    if name not in JUDGES:
        raise UsageError(f"there is no judge `{name}`", hint=f"known: {', '.join(JUDGES)}")
    return JUDGES[name](rest)


def asked(model: str, questions: Sequence[Question]) -> list[str]:
    """What a bundle, or a route of a palette (`FOLDER:ROUTE`), answers."""
    folder, _, route = model.partition(":")
    predictor = tailor.Predictor(folder, route=route or None)
    return [str(one.answer) for one in predictor([question.text for question in questions])]


def relative(scores: Sequence[Sequence[float]]) -> list[float]:
    """100 times the sum of each model's scores over that of the first; NaN where the first has none."""
    first = sum(scores[0])
    return [100 * sum(one) / first if first else math.nan for one in scores]


def main() -> None:
    """Ask, judge, print a line a model, and leave every answer with its score in `OUT/answers.jsonl`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("questions", type=Path)
    parser.add_argument("--models", required=True)
    parser.add_argument("--judge", default="exact")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    args = parser.parse_args()
    questions, judge, models = read(args.questions), judge_of(args.judge), args.models.split(",")
    answers = [asked(model, questions) for model in models]
    scores = [[judge(q, a) for q, a in zip(questions, own, strict=True)] for own in answers]
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "answers.jsonl").open("w", encoding="utf-8") as file:
        for i, question in enumerate(questions):
            said = {m: {"answer": answers[n][i], "score": scores[n][i]} for n, m in enumerate(models)}
            file.write(json.dumps({"question_id": question.number, "text": question.text, **said}) + "\n")
    for model, own, quality in zip(models, scores, relative(scores), strict=True):
        print(f"{quality:8.1f}  {sum(own) / len(own):.4f}  {model}")


if __name__ == "__main__":
    main()
