"""`igds init`: a first configuration, with every setting explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import ClassVar, Literal

from tyro.conf import Positional

from igds.config import inputs, schema, scoring
from igds.config.reference import commented_yaml
from igds.errors import RequestError

_COLUMNS = {
    "math": ("question", "answer"),
    "summarization": ("dialogue", "summary"),
    "translation": ("source", "target"),
}
"""Task -> field of its prompt and field of its gold response."""

_CHAT = schema.Task(name="chat", response=" {response}", metric="rougeL")
"""The metric judges generated outputs; prompts and gold responses are the conversations' own."""

_HEAD = """# Relative paths, of the model and the results too, start from the folder of this file.
"""


@dataclass(frozen=True, kw_only=True)
class Init:
    """Write a commented config that runs once its paths are yours."""

    overridable: ClassVar[bool] = False

    task: Positional[Literal["math", "summarization", "translation", "chat"]]
    """What the rows are for; chat: rows of conversations, whatever they are about."""
    output: Path = Path("igds.yaml")
    """File to write."""
    paper: bool = False
    """The published settings: generated outputs on one split, the raw sum, half of the pool."""

    def execute(self, overrides: Sequence[str]) -> None:  # noqa: ARG002
        """Write the file.

        Raises:
            RequestError: it is there already.
        """
        if not self.output.parent.is_dir():
            raise RequestError(f"there is no folder {self.output.parent}: make it first")
        try:
            with self.output.open("x", encoding="utf-8") as file:
                file.write(_HEAD + commented_yaml(example(self.task, paper=self.paper)))
        except FileExistsError as error:
            raise RequestError(f"{self.output} is there already: name another --output") from error
        print(f"{self.output} written: set model.id, saes and the data paths, then")
        if self.task == "chat":
            print("(data.*.messages is the column of the conversations; docs/pools.md)")
        print(f"igds run {self.output}")


def example(task: str, *, paper: bool = False) -> schema.Config:
    """Return the configuration that `igds init` writes: every stage, default or published."""
    ratio = Decimal("0.5" if paper else "0.2")
    chat = task == "chat"
    return schema.Config(
        name=task,
        model=schema.Model(id="path/to/model"),
        saes=(schema.SAE(path="path/to/sae"),),
        data=inputs.Data(
            prior=(_source("prior", task),),
            validation=(_source("validation", task),),
            pool=(_source("pool", task),),
        ),
        task=_CHAT if chat else schema.Task(name=task),
        prompts=inputs.Prompts(chat_template=chat),
        recall=schema.Recall(),
        intervene=schema.Intervene(mode="paper" if paper else "rigorous", allow_unconfirmed=True),
        score=scoring.Score(
            methods=("igds", "igds-random", "cosine", "length", "random"),
            aggregate="raw" if paper else "auto",
        ),
        select=scoring.Select(budget=scoring.Budget(ratio=ratio)),
        report=schema.Report(),
    )


def _source(name: str, task: str) -> inputs.Source:
    if task == "chat":
        return inputs.Source(path=f"data/{name}.jsonl", messages="messages")
    prompt, response = _COLUMNS[task]
    fields = (prompt,) if name == "prior" else (prompt, response)
    return inputs.Source(path=f"data/{name}.jsonl", columns={field: field for field in fields})
