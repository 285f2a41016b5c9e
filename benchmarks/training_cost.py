"""Cost of an update on a CPU, relative to TRL's trainer as it comes.

    python benchmarks/training_cost.py

Both train all weights of SmolLM2-135M in float32 on the same eight updates of eight of the
quickstart's validation rows, each in a process of its own on all cores, twice in turn. TRL's own
takes loss and metrics from its own head. igds trains with the environment, order and loss that
`igds finetune` gives. Both take four rows a forward pass.

`update_over_trl`: median seconds of an update over that of TRL, the first one left out;
`first_update_over_trl`: of the first, which meets memory that was never touched.
`peak_rss_over_trl`: of the largest resident sets. `loss_difference`: the largest one of the losses.

Exits with 1 when losses differ by over 1e-3 nats.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from datasets import Dataset
from trl.trainer.sft_trainer import SFTTrainer

from _common import print_result, read_rows, set_up
from igds.config.load import ConfigFile
from igds.config.training import Finetune
from igds.data.templates import parse_template
from igds.finetuning.examples import training_examples
from igds.finetuning.launch import training_command, training_environment
from igds.finetuning.spec import HISTORY, STEP, TrainFolder, TrainSpec
from igds.finetuning.train import Say, arguments
from igds.models.load import load_tokenizer, load_trainable
from igds.runs.files import write_json
from igds.tasks.registry import load_task

BATCH, UPDATES, TURNS, LIMIT = 8, 8, 2, 1e-3
OWN = Finetune(batch=BATCH, device_batch=4, precision="float32")


@dataclass(frozen=True, slots=True)
class Measured:
    """One training."""

    seconds: list[float]
    rss: int
    losses: list[float]


def main(words: list[str]) -> int:
    """Print the seconds of each training and the ratios; return the exit code."""
    if words[:1] == ["--plain"]:
        plain(TrainFolder(Path(words[1])))
        return 0
    file, spec = set_up()
    tokenizer = load_tokenizer(spec)
    rows = training_rows(file)
    examples = training_examples(tokenizer, rows, max_tokens=1024, chat=False)
    order = tuple(range(len(examples)))
    own, plainly = [], []
    for _ in range(TURNS):
        for kind, place in (("igds", own), ("trl", plainly)):
            told = TrainSpec(name=kind, model=spec, settings=OWN, order=order, seed=0)
            place.append(measured(told, examples))
            print(f"{kind}: {', '.join(f'{s:.2f}' for s in place[-1].seconds)} s an update")
    difference = max(abs(a - b) for a, b in zip(own[0].losses, plainly[0].losses, strict=True))
    print_result(
        updates=UPDATES,
        rows=BATCH,
        update_over_trl=over(own, plainly, lambda one: statistics.median(one.seconds[1:])),
        first_update_over_trl=over(own, plainly, lambda one: one.seconds[0]),
        peak_rss_over_trl=over(own, plainly, lambda one: one.rss),
        loss_difference=difference,
    )
    return 0 if difference <= LIMIT else 1


def training_rows(file: ConfigFile) -> pa.Table:
    """Return row_id, prompt and response of the rows to train on."""
    template = parse_template(str(file.config.prompts.template))
    task = load_task(file.config.task, file.base)
    rows = read_rows("validation")[: BATCH * UPDATES]
    return pa.table(
        {
            "row_id": [f"{place:032x}" for place in range(len(rows))],
            "prompt": [template.render(row) for row in rows],
            "response": [task.response(row) for row in rows],
        }
    )


def measured(spec: TrainSpec, examples: pa.Table) -> Measured:
    """Train in a process of its own."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as place:
        folder = TrainFolder(Path(place))
        folder.write(spec, examples)
        command = [sys.executable, __file__, "--plain", place]
        environment = {**os.environ, "OMP_NUM_THREADS": str(cores)}
        if spec.name == "igds":
            command = training_command(folder, spec.settings, folder.path)
            environment = training_environment(spec.settings, os.environ, "cpu", cores, folder.path)
        with (
            folder.log.open("wb") as log,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            ) as process,
        ):
            assert process.stdout is not None
            times = [time.perf_counter() for line in process.stdout if line.startswith(STEP)]
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(folder.log.read_text(encoding="utf-8"))
        losses = [entry["loss"] for entry in folder.history or []]
    seconds = [after - before for before, after in itertools.pairwise(times)]
    return Measured(seconds=seconds, rss=usage.ru_maxrss, losses=[float(one) for one in losses])


def over(own: list[Measured], plainly: list[Measured], value: Callable[[Measured], float]) -> float:
    """Return the median over turns of igds' value divided by TRL's."""
    return statistics.median(value(a) / value(b) for a, b in zip(own, plainly, strict=True))


def plain(folder: TrainFolder) -> None:
    """Train with TRL's trainer itself, with the arguments that igds gives to its own."""
    spec = folder.read()
    trainer = SFTTrainer(
        model=load_trainable(spec.model),
        args=arguments(folder, spec),
        train_dataset=Dataset.from_file(str(folder.examples)).select(spec.order),
        processing_class=load_tokenizer(spec.model),
        callbacks=[Say()],
    )
    trainer.train()
    write_json(folder.path / HISTORY, [one for one in trainer.state.log_history if "loss" in one])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
