"""COMET of generated translations, by the Python that has it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from igds.config.inputs import Source
from igds.data.templates import Template, as_text
from igds.errors import RequestError
from igds.evaluation.items import ITEMS
from igds.executors.other_python import OtherPython
from igds.tasks.base import Task, texts
from igds.tasks.comet import CometScores, Translation, comet_scores
from igds.tasks.translation import TranslationTask

SOURCE = "source"
"""The field that is translated."""


def check_comet(task: Task, template: Template, sources: Sequence[Source]) -> None:
    """Refuse COMET for what is no translation.

    Args:
        task: of the run.
        template: its prompts'.
        sources: of the held-out rows.

    Raises:
        RequestError: the task is another one, or the rows do not say what is translated.
    """
    chat = any(source.messages is not None for source in sources)
    if not isinstance(task, TranslationTask) or SOURCE not in template.fields or chat:
        raise RequestError(
            "evaluate.comet_python judges translations: it needs task.name: translation, a "
            "template with the place {source}, and rows of `source` and `target`, not of messages"
        )


def comet_items(
    outputs: pa.Table, fields: Mapping[str, str], process: OtherPython, checkpoint: str
) -> tuple[pa.Table, CometScores]:
    """Return the items `comet` of all generated responses, and what made them.

    Args:
        outputs: the items `task_score`.
        fields: row id -> the row's mapped fields as JSON.
        process: COMET as another Python runs it.
        checkpoint: COMET model.

    Raises:
        RequestError, WorkError: as `comet_scores`.
    """
    rows = []
    for item, text in zip(outputs["item"].to_pylist(), outputs["text"].to_pylist(), strict=True):
        row = json.loads(fields[item])
        references = tuple(texts(row, "target"))
        source = as_text(row[SOURCE])
        rows.append(Translation(source=source, output=text.strip(), references=references))
    found = comet_scores(process, rows, checkpoint=checkpoint)
    columns = {name: outputs[name] for name in ITEMS.names}
    columns |= {"metric": pa.array(["comet"] * len(outputs)), "value": pa.array(found.scores)}
    return pa.table({**columns, "text": pa.nulls(len(outputs))}).cast(ITEMS), found
