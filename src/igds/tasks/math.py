"""Math word problems: GSM8K answers, or solutions that end in a boxed answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from igds.data.templates import as_text
from igds.tasks.grading import Grader

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
_MARK = "####"
"""GSM8K's mark before the final answer, in the last line; elsewhere it is a heading."""
_SHORT = 100


class MathTask:
    """Solve step by step; an output is right when its final answer equals the gold one."""

    template = (
        "{question}\nPlease reason step by step, and put your final answer within \\boxed{}.\n"
        "Solution:"
    )
    paraphrases = (
        "{question}\nThink it through step by step and write the final answer inside \\boxed{}.\n"
        "Answer:",
        "{question}\nWork this out one step at a time; the result goes into \\boxed{}.\nWorking:",
        "{question}\nSolve the problem, show each step, and box the result with \\boxed{}.\n"
        "Worked solution:",
    )
    fields = ("answer",)

    def __init__(self) -> None:
        """Prepare the grader; its process starts with the first output that is judged."""
        self._grader = Grader()

    def response(self, row: Mapping[str, Any]) -> str:
        """Return the solution; a GSM8K answer without calculator marks, its result boxed."""
        solution, final = split_answer(as_text(row["answer"]))
        if final is None:
            return f" {solution}"
        return " " + f"{solution}\nThe final answer is \\boxed{{{final}}}.".lstrip()

    def answer_span(self, response: str) -> tuple[int, int] | None:
        """Return where the content of the last box stands, or what follows `####` at the end."""
        return last_boxed(response) or _after_mark(response)

    def score(self, output: str, row: Mapping[str, Any]) -> float:
        """Return 1 when math-verify finds the output's final answer equal to the gold one."""
        return float(self._grader.equal(gold_answer(as_text(row["answer"])), output))

    def parsed(self, output: str) -> bool:
        """Return whether math-verify finds a final answer in an output."""
        return self._grader.parses(output)


def split_answer(answer: str) -> tuple[str, str | None]:
    """Return the solution and the final answer, which is None without a last line of `####`."""
    text = _CALCULATOR_MARK.sub("", answer).strip()
    span = _after_mark(text)
    if span is None:
        return text, None
    return text[: span[0]].rstrip().removesuffix(_MARK).strip(), text[slice(*span)]


def last_boxed(text: str) -> tuple[int, int] | None:
    r"""Return (start, stop) of the content of the last `\boxed{}`, None when none is closed."""
    opened = text.rfind("\\boxed{")
    if opened < 0:
        return None
    start, depth = opened + len("\\boxed{"), 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return start, place
    return None


def _after_mark(text: str) -> tuple[int, int] | None:
    """Return (start, stop) of what follows `####` in the last line, None without any."""
    ended = text.rstrip()
    _, mark, final = ended[ended.rfind("\n") + 1 :].rpartition(_MARK)
    stop = len(ended)
    return (stop - len(final.lstrip()), stop) if mark and final.strip() else None


def gold_answer(answer: str) -> str:
    """Return a text whose final answer math-verify finds, boxed where it is the answer alone."""
    solution, final = split_answer(answer)
    whole = "\\boxed" in solution or _MARK in solution or len(solution) > _SHORT
    if final is None and whole:
        return solution
    return f"\\boxed{{{solution if final is None else final}}}"
