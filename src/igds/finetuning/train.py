"""The process that trains: `python -m igds.finetuning.train FOLDER`.

For several GPUs `accelerate launch -m igds.finetuning.train FOLDER`. FOLDER holds what
`TrainFolder` writes, and gets checkpoints, the model and last of all the history. A process that
is killed goes on from its last whole checkpoint when it is started again. With `--attached` it ends
as soon as its standard input closes, so that it does not outlive whoever started it.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from igds.errors import RequestError, WorkError
from igds.finetuning.examples import IGNORED, example_lengths
from igds.finetuning.spec import ADAPTER, HISTORY, MODEL, STEP, TrainFolder, TrainSpec
from igds.models.load import load_tokenizer, load_trainable
from igds.models.quiet import quiet
from igds.runs.files import write_json
from igds.stats.null import or_null

_STATE = "trainer_state.json"


class Say(TrainerCallback):
    """Tells whoever started the process which update is done."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Say which one was the last, 0 at first."""
        self._say(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Say which one is done."""
        self._say(state)

    def _say(self, state: Any) -> None:
        if state.is_world_process_zero:
            sys.stdout.write(f"{STEP}{state.global_step}\n")
            sys.stdout.flush()


class _CpuTrainer(SFTTrainer):
    """Takes the loss from the model's own forward pass, at the positions that are learned from.

    TRL's head goes over every position of a batch in blocks of the vocabulary, several times, which
    saves the memory of a GPU and takes the time of a CPU.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return a forward pass' share of the mean over the tokens that its update learns from."""
        labels = inputs["labels"]
        kept = (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()
        given = {**inputs, "logits_to_keep": kept, "shift_labels": labels[:, kept + 1]}
        return Trainer.compute_loss(self, model, given, return_outputs, num_items_in_batch)


def main(words: Sequence[str]) -> None:
    """Train what a folder describes."""
    if "--attached" in words:
        threading.Thread(target=_end_with_input, daemon=True).start()
    folder = TrainFolder(Path(next(word for word in words if not word.startswith("-"))))
    train(folder)


def train(folder: TrainFolder) -> None:
    """Train from the last whole checkpoint, or from the start, and write model and history.

    Raises:
        RequestError: the processes do not divide a batch.
        WorkError: the weights or the autocast are not of the precision that was asked for.
    """
    spec = folder.read()
    trainer = make_trainer(folder, spec)
    check_precision(trainer, spec.settings.precision)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder.checkpoints))
    trained = ADAPTER if spec.settings.lora else MODEL
    trainer.save_model(str(folder.path / trained))
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return
    if spec.settings.lora:
        _merge(folder, spec)
    load_tokenizer(spec.model).save_pretrained(folder.path / MODEL)
    # The trainer pickles its arguments beside the weights.
    (folder.path / trained / "training_args.bin").unlink(missing_ok=True)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    # A training that diverged is finished too: JSON has no NaN.
    plain = [{name: or_null(value) for name, value in entry.items()} for entry in history]
    write_json(folder.path / HISTORY, plain)


def make_trainer(folder: TrainFolder, spec: TrainSpec) -> SFTTrainer:
    """Return the trainer over the examples in the order of the spec."""
    from peft import LoraConfig

    lora = spec.settings.lora
    examples = Dataset.from_file(str(folder.examples))
    targets = list(lora.targets) if lora else []
    adapters = lora and LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )
    model = load_trainable(spec.model)
    plain = spec.model.device_type == "cpu" and _loss_is_plain(model)
    trainer = (_CpuTrainer if plain else SFTTrainer)(
        model=model,
        args=arguments(folder, spec),
        train_dataset=examples.select(_by_length(spec, examples)),
        processing_class=load_tokenizer(spec.model),
        peft_config=adapters,
        callbacks=[Say()],
    )
    # Else the parts of multimodal models average each forward pass by itself.
    trainer.model_accepts_loss_kwargs = True
    return trainer


def check_precision(trainer: SFTTrainer, precision: str) -> None:
    """Check that float32 weights are trained, under the autocast that was asked for.

    Raises:
        WorkError: they are not: most updates of 2e-5 would round away in bfloat16 weights.
    """
    assert trainer.model is not None, "the trainer was given a model"
    low = {str(p.dtype) for p in trainer.model.parameters() if p.dtype != torch.float32}
    if low:
        raise WorkError(f"the weights to train are {', '.join(sorted(low))}, not float32")
    wanted = {"bfloat16": "bf16", "float32": "no"}[precision]
    found = trainer.accelerator.mixed_precision
    if found != wanted:
        raise WorkError(
            f"mixed precision is {found}, but finetune.precision {precision} asks for {wanted}: "
            "take mixed_precision out of finetune.accelerate_config"
        )


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest whole checkpoint, None without any; what a kill cut short is removed."""
    numbered = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    for path in reversed(numbered):
        try:
            json.loads((path / _STATE).read_bytes())  # the last file of a checkpoint
        except (FileNotFoundError, ValueError):
            shutil.rmtree(path, ignore_errors=True)  # of several processes each comes here
            continue
        return str(path)
    return None


def _loss_is_plain(model: PreTrainedModel) -> bool:
    """Return whether a model's forward pass takes positions, and its loss is theirs alone.

    Multimodal models do not say what their loss is divided by, and mixtures of experts add one of
    their own, which TRL alone shares over the passes of an update.
    """
    return (
        type(model).__module__.startswith("transformers.")
        and "logits_to_keep" in inspect.signature(type(model).forward).parameters
        and getattr(model, "accepts_loss_kwargs", True)
        and not hasattr(model.config.get_text_config(), "router_aux_loss_coef")
    )


def _by_length(spec: TrainSpec, examples: Dataset) -> list[int]:
    """Return the order with the rows of each update by length, so that less is padded."""
    lengths = example_lengths(examples.data.table)
    order, batch = spec.order, spec.settings.batch
    updates = (order[start : start + batch] for start in range(0, len(order), batch))
    return [row for update in updates for row in sorted(update, key=lengths.__getitem__)]


def arguments(folder: TrainFolder, spec: TrainSpec) -> SFTConfig:
    """Return the trainer's arguments.

    Raises:
        RequestError: the processes do not divide a batch.
    """
    settings = spec.settings
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if settings.batch % (settings.forward_batch * world):
        raise RequestError(
            f"finetune.batch {settings.batch} is no multiple of {settings.forward_batch} rows "
            f"(device_batch) times {world} processes"
        )
    return SFTConfig(
        logging_nan_inf_filter=False,  # a loss that is not finite is to be seen
        output_dir=str(folder.checkpoints),
        run_name=spec.name,
        per_device_train_batch_size=settings.forward_batch,
        gradient_accumulation_steps=settings.batch // (settings.forward_batch * world),
        num_train_epochs=1,  # the order of the spec holds every pass over the rows
        train_sampling_strategy="sequential",
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        # Rounded down: the trainer's own rounding makes a first update of rate 0 the only one.
        warmup_steps=int(settings.warmup * spec.steps),
        weight_decay=settings.weight_decay,
        bf16=settings.precision == "bfloat16",
        gradient_checkpointing=settings.gradient_checkpointing,
        logging_steps=1,
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,
        report_to=list(settings.trackers) or "none",
        seed=spec.seed,
        use_cpu=spec.model.device_type == "cpu",
        dataloader_pin_memory=spec.model.device_type == "cuda",
        disable_tqdm=True,
    )


def _merge(folder: TrainFolder, spec: TrainSpec) -> None:
    """Write the model with its adapters merged into the weights."""
    from peft import PeftModel

    base: PreTrainedModel = load_trainable(spec.model)
    merged: Any = PeftModel.from_pretrained(base, str(folder.path / ADAPTER))
    with quiet():
        merged.merge_and_unload().save_pretrained(folder.path / MODEL)


def _end_with_input() -> None:
    """End the process when nobody holds the other end of its standard input."""
    # Not through sys.stdin, whose lock a process that ends in peace would wait for.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
