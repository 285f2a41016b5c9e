"""LLaMA-Factory and Axolotl: the data, the YAML, and the command that trains with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from igds.config.identity import yaml_text
from igds.config.training import Finetune
from igds.exports.axolotl import axolotl_dataset
from igds.exports.examples import write_examples
from igds.exports.llamafactory import llamafactory_dataset
from igds.exports.rows import Chosen
from igds.runs.files import whole_file

_DATA = "selected"
"""Name of the data set."""


def write_engine(
    folder: Path, final: Path, rows: Chosen, settings: Finetune, *, model: str, seed: int
) -> list[str]:
    """Write data and YAML for another trainer; return the command, and what to know of it.

    Args:
        folder: where they are written.
        final: where they will stand: the YAML names this folder.
        rows: the rows to train on.
        settings: with an engine that is not trl.
        model: folder of the model to train.
        seed: of the trainer.

    Raises:
        RequestError: a row does not go into the engine's format.
        WorkError: the disk is full.
    """
    keys, command, notes = _ENGINES[settings.engine](folder, final, rows, settings)
    shared = {
        "learning_rate": settings.learning_rate,
        "gradient_accumulation_steps": settings.batch
        // (settings.forward_batch * settings.processes),
        "weight_decay": settings.weight_decay,
        "seed": seed,
        "save_steps": settings.checkpoint_steps,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "output_dir": str(final / "model"),
    }
    if settings.steps is not None:
        shared["max_steps"] = settings.steps
    model_key = "base_model" if settings.engine == "axolotl" else "model_name_or_path"
    with whole_file(folder / f"{settings.engine}.yaml") as file:
        file.write(yaml_text({model_key: model, **keys, **shared}).encode())
    if settings.processes > 1:
        notes.append(
            f"start it as {settings.processes} processes: batch {settings.batch} is theirs"
        )
    return [f"to train: {command} {final / f'{settings.engine}.yaml'}", *notes]


def _llamafactory(
    folder: Path, final: Path, rows: Chosen, settings: Finetune
) -> tuple[dict[str, Any], str, list[str]]:
    """Return the YAML's keys, the command and what to know, having written the data."""
    chats, notes = llamafactory_dataset(folder / f"{_DATA}.jsonl", rows)
    keys: dict[str, Any] = {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora" if settings.lora else "full",
        "dataset": _DATA,
        "dataset_dir": str(final),
        # Rendered prompts need none; chats take the tokenizer's own, which no key names.
        **({} if chats else {"template": "empty"}),
        "cutoff_len": settings.max_tokens,
        "per_device_train_batch_size": settings.forward_batch,
        "num_train_epochs": settings.epochs,
        "lr_scheduler_type": settings.scheduler,
        "warmup_ratio": settings.warmup,
        "bf16": settings.precision == "bfloat16",
        "logging_steps": 1,
        "report_to": list(settings.trackers) or "none",
    }
    if settings.lora:
        targets = settings.lora.targets
        keys |= {
            "lora_rank": settings.lora.rank,
            "lora_alpha": settings.lora.alpha,
            "lora_dropout": settings.lora.dropout,
            "lora_target": "all" if targets == ("all-linear",) else ",".join(targets),
        }
    return keys, "llamafactory-cli train", notes


def _axolotl(
    folder: Path, final: Path, rows: Chosen, settings: Finetune
) -> tuple[dict[str, Any], str, list[str]]:
    """Return the YAML's keys, the command and what to know, having written the data."""
    name = f"{_DATA}.jsonl"
    chats = write_examples(folder / name, rows, "instruction", "output")
    keys: dict[str, Any] = {
        "datasets": [axolotl_dataset(final / name, chats)],
        "train_on_inputs": False,
        "sequence_len": settings.max_tokens,
        "sample_packing": False,
        "micro_batch_size": settings.forward_batch,
        "num_epochs": settings.epochs,
        "optimizer": "adamw_torch",
        "lr_scheduler": settings.scheduler,
        "warmup_ratio": settings.warmup,
        "bf16": False,
        "tf32": settings.precision == "bfloat16",
        "logging_steps": 1,
    }
    if settings.lora:
        targets = settings.lora.targets
        keys |= {
            "adapter": "lora",
            "lora_r": settings.lora.rank,
            "lora_alpha": settings.lora.alpha,
            "lora_dropout": settings.lora.dropout,
        }
        every = targets == ("all-linear",)
        keys |= {"lora_target_linear": True} if every else {"lora_target_modules": list(targets)}
    rounding = (
        "Axolotl's bf16 makes the weights bfloat16, in which most updates of a low learning rate "
        "round away: the YAML says float32 with tf32"
    )
    return keys, "axolotl train", [rounding] if settings.precision == "bfloat16" else []


_Writer = Callable[[Path, Path, Chosen, Finetune], tuple[dict[str, Any], str, list[str]]]
_ENGINES: Mapping[str, _Writer] = MappingProxyType(
    {"llamafactory": _llamafactory, "axolotl": _axolotl}
)
