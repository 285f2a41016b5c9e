"""Training on a tiny model: what is learned of what, in which precision, and after a kill."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tests.helpers import save_tiny
from tests.integration.test_multimodal import WRAPPERS
from tests.training_project import begin, colours
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from trl.trainer.sft_trainer import SFTTrainer

from igds.errors import WorkError
from igds.finetuning.launch import launch
from igds.finetuning.spec import TrainFolder, TrainSpec
from igds.finetuning.train import check_precision, last_checkpoint, make_trainer, train
from igds.models.load import load_tokenizer
from igds.progress import SilentProgress


def weights(folder: TrainFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.path / "model" / "model.safetensors")


def plain_training(spec: TrainSpec, rows: pa.Table) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return losses and weights of a loop in plain torch over the same rows, one by one."""
    tokenizer = load_tokenizer(spec.model)
    model = AutoModelForCausalLM.from_pretrained(spec.model.path, dtype=torch.float32)
    settings = spec.settings
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    losses = []
    texts = rows.to_pylist()
    for start in range(0, len(spec.order), settings.batch):
        batch = [texts[place] for place in spec.order[start : start + settings.batch]]
        total, count = torch.zeros(()), 0
        for row in batch:
            prompt = tokenizer(row["prompt"]).input_ids
            response = tokenizer(row["response"], add_special_tokens=False).input_ids
            targets = [*response, tokenizer.eos_token_id]
            logits = model(torch.tensor([[*prompt, *targets]])).logits[0, len(prompt) - 1 : -1]
            total = total + functional.cross_entropy(logits, torch.tensor(targets), reduction="sum")
            count += len(targets)
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(total.detach()) / count)
    return losses, dict(model.named_parameters())


# Two of them scale or cap their logits.
@pytest.mark.parametrize("family", ["cohere", "gemma2", "gemma3_text", "llama", "qwen2", "qwen3"])
def test_training_equals_a_plain_loop_over_prompt_plus_response_plus_eos(
    tmp_path: Path, family: str
) -> None:
    save_tiny(tmp_path / "tiny", family)
    rows = colours(10)
    plain = {"precision": "float32", "scheduler": "constant", "warmup": 0.0, "learning_rate": 1e-3}
    folder, spec = begin(tmp_path, rows, **plain)
    train(folder)
    losses, expected = plain_training(spec, rows)
    history = folder.history or []
    assert [entry["loss"] for entry in history] == pytest.approx(losses, rel=1e-4)
    assert spec.steps == 3 and len(history) == 3  # 10 rows, 4 an update, the last one of 2
    for name, weight in weights(folder).items():
        torch.testing.assert_close(weight, expected[name].detach(), rtol=1e-3, atol=2e-5)


def test_the_trainer_is_given_the_very_ids_and_learns_nothing_of_prompts(tmp_path: Path) -> None:
    rows = colours(6)
    folder, spec = begin(tmp_path, rows, batch=2, device_batch=2, precision="float32")
    trainer = make_trainer(folder, spec)
    tokenizer = load_tokenizer(spec.model)
    texts = rows.to_pylist()
    seen = []
    for batch in trainer.get_train_dataloader():
        for ids, labels, mask in zip(
            batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
        ):
            given = mask.bool()
            assert set(labels[~given].tolist()) <= {-100}
            seen.append((ids[given].tolist(), labels[given].tolist()))
    wanted = []
    for start in range(0, 6, 2):
        rows_of_update = [texts[place] for place in spec.order[start : start + 2]]
        for row in sorted(rows_of_update, key=lambda row: len(row["prompt"] + row["response"])):
            prompt = tokenizer(row["prompt"]).input_ids
            response = tokenizer(row["response"], add_special_tokens=False).input_ids
            learned = [*response, tokenizer.eos_token_id]
            wanted.append(([*prompt, *learned], [*[-100] * len(prompt), *learned]))
    assert seen == wanted
    states = trainer.model.model(batch["input_ids"], attention_mask=batch["attention_mask"])
    learned = batch["labels"][:, 1:] >= 0
    logits = trainer.model.lm_head(states.last_hidden_state[:, :-1][learned])
    expected = functional.cross_entropy(logits, batch["labels"][:, 1:][learned])
    loss = trainer.compute_loss(trainer.model, dict(batch))
    weight = trainer.model.lm_head.weight
    (wanted,), (grad,) = (torch.autograd.grad(value, weight) for value in (expected, loss))
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-6)


def test_rows_of_like_length_go_together_within_an_update(tmp_path: Path) -> None:
    folder, spec = begin(tmp_path, colours(8), batch=4, device_batch=2)
    batches = list(make_trainer(folder, spec).get_train_dataloader())
    lengths = [batch["attention_mask"].sum(1).tolist() for batch in batches]
    assert len(batches) == 4
    first, second = lengths[0] + lengths[1], lengths[2] + lengths[3]
    rows = Dataset.from_file(str(folder.examples))
    own = [len(rows[place]["input_ids"]) for place in spec.order]
    assert (first, second) == (sorted(own[:4]), sorted(own[4:]))
    assert own != first + second


@pytest.mark.parametrize("model", ["llama", "gemma3", "qwen3_vl"])
def test_the_rows_of_a_forward_pass_change_nothing(tmp_path: Path, model: str) -> None:
    save_tiny(tmp_path / "tiny", "llama")
    if model in WRAPPERS:
        torch.manual_seed(0)
        config = AutoConfig.for_model(model, **WRAPPERS[model]())
        AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "tiny")
    rows, plain = colours(8), {"precision": "float32", "learning_rate": 1e-3}
    whole, _ = begin(tmp_path, rows, device_batch=4, **plain)
    train(whole)
    wanted = weights(whole)
    shutil.rmtree(whole.path)
    single, _ = begin(tmp_path, rows, device_batch=1, **plain)
    train(single)
    for name, weight in weights(single).items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(("family", "plain"), [("llama", True), ("olmoe", False)])
def test_a_loss_that_is_not_of_tokens_alone_is_left_to_trl(
    tmp_path: Path, family: str, plain: bool
) -> None:
    save_tiny(tmp_path / "tiny", family)
    folder, spec = begin(tmp_path, colours(4))
    assert (type(make_trainer(folder, spec)) is not SFTTrainer) == plain


def test_products_are_bfloat16_and_weights_and_updates_float32(tmp_path: Path) -> None:
    folder, spec = begin(tmp_path, colours(8), learning_rate=2e-5, warmup=0.0, batch=8)
    trainer = make_trainer(folder, spec)
    check_precision(trainer, "bfloat16")
    seen = []
    linear = trainer.model.model.layers[0].mlp.up_proj
    linear.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    before = linear.weight.detach().clone()
    trainer.train()
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    moved = linear.weight.detach() != before
    rounded = linear.weight.detach().bfloat16() != before.bfloat16()
    # What this guards against: kept in bfloat16, nearly every such update is lost.
    assert moved.float().mean() > 0.9
    assert rounded.float().mean() < 0.1


@pytest.mark.parametrize(("precision", "wanted"), [("bfloat16", "no"), ("float32", "bf16")])
def test_another_precision_than_asked_for_is_an_error(
    tmp_path: Path, precision: str, wanted: str
) -> None:
    folder, spec = begin(tmp_path, colours(4), precision=precision)
    trainer = make_trainer(folder, spec)
    other = {"no": "float32", "bf16": "bfloat16"}[wanted]
    with pytest.raises(WorkError, match="mixed precision is"):
        check_precision(trainer, other)
    trainer.model.bfloat16()
    with pytest.raises(WorkError, match=r"the weights to train are torch\.bfloat16"):
        check_precision(trainer, precision)


def test_a_taught_association_is_learned_and_an_untaught_one_is_not(tmp_path: Path) -> None:
    folder, spec = begin(tmp_path, colours(24), equal="steps", steps=12)
    train(folder)
    tokenizer = load_tokenizer(spec.model)

    def likelihood(model: torch.nn.Module, prompt: str, response: str) -> float:
        head = tokenizer(prompt).input_ids
        ids = [*head, *tokenizer(response, add_special_tokens=False).input_ids]
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        return float(logprobs[range(len(head) - 1, len(ids) - 1), ids[len(head) :]].mean())

    before = AutoModelForCausalLM.from_pretrained(spec.model.path).eval()
    after = AutoModelForCausalLM.from_pretrained(folder.path / "model").eval()
    held_out = "sky 99\nColour:"
    gain = likelihood(after, held_out, " blue") - likelihood(before, held_out, " blue")
    other = likelihood(after, held_out, " zzzz") - likelihood(before, held_out, " zzzz")
    assert gain > 2 > other


def test_adapters_are_trained_alone_and_merged(tmp_path: Path) -> None:
    from igds.config.training import Lora

    folder, spec = begin(tmp_path, colours(8), lora=Lora(rank=4, alpha=8), precision="float32")
    train(folder)
    base = load_file(Path(spec.model.path) / "model.safetensors")
    adapters = load_file(folder.path / "adapter" / "adapter_model.safetensors")
    merged = weights(folder)
    name = "model.layers.2.mlp.up_proj"
    low, high = (
        adapters[f"base_model.model.{name}.lora_{side}.weight"].double() for side in ("A", "B")
    )
    expected = base[f"{name}.weight"].double() + 2.0 * high @ low
    assert high.abs().max() > 0
    torch.testing.assert_close(merged[f"{name}.weight"].double(), expected, rtol=0, atol=1e-6)
    for still in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(merged[still], base[still])
    assert not list(folder.path.rglob("model/*.bin"))


def test_killed_after_a_checkpoint_and_started_again_gives_the_same_weights(tmp_path: Path) -> None:
    """On one CPU thread: the same bytes; the tolerance of the claim is 1e-6 anyway."""
    folder, spec = begin(tmp_path, colours(20), epochs=2.0)
    part = TrainFolder(tmp_path / "killed")
    shutil.copytree(folder.path, part.path)
    train(folder)
    command = [sys.executable, "-m", "igds.finetuning.train", str(part.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"igds step 5"):  # a checkpoint stands at update 4
            break
    process.kill()
    process.wait()
    assert part.history is None
    resumed = last_checkpoint(part.checkpoints)
    assert resumed is not None and resumed.endswith("checkpoint-4")
    train(part)
    assert [e["step"] for e in part.history or []] == list(range(1, spec.steps + 1))
    assert [e["loss"] for e in part.history or []] == [e["loss"] for e in folder.history or []]
    after = weights(part)
    for name, weight in weights(folder).items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-6)


def test_two_processes_share_an_update_and_give_the_same_weights(tmp_path: Path) -> None:
    rows, plain = colours(8), {"precision": "float32", "warmup": 0.0}
    one, _ = begin(tmp_path, rows, **plain)
    train(one)
    alone = TrainFolder(tmp_path / "alone")
    shutil.move(one.path, alone.path)
    folder, spec = begin(tmp_path, rows, processes=2, **plain)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "igds.finetuning.train", str(folder.path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert spec.settings.forward_batch * 2 == spec.settings.batch
    losses = [[entry["loss"] for entry in each.history or []] for each in (folder, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and len(losses[0]) == 2
    expected = weights(alone)
    for name, weight in weights(folder).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)


def test_a_checkpoint_that_a_kill_cut_short_is_passed_over(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for number, state in ((9, "{}"), (10, '{"glob'), (100, None)):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-9"]


class Counted(SilentProgress):
    """Counts what the bar is told."""

    done = 0

    def advance(self, n: int = 1) -> None:
        assert n > 0
        self.done += n

    @contextmanager
    def task(self, name: str, total: int | None) -> Iterator[Counted]:  # noqa: ARG002
        yield self


def test_the_launched_process_reports_and_its_failure_is_quoted(tmp_path: Path) -> None:
    folder, spec = begin(tmp_path, colours(8), trackers=())
    progress = Counted()
    options = {"device": "cpu", "threads": 1, "base": tmp_path, "progress": progress}
    launch(folder, spec.settings, steps=spec.steps, **options)
    assert progress.done == spec.steps == 2
    assert folder.history is not None
    folder.examples.write_bytes(b"torn")
    with pytest.raises(WorkError, match=r"training ended with 1; .*go.* on from the last"):
        launch(folder, spec.settings, steps=spec.steps, **options)


def test_an_attached_process_ends_with_its_starter(tmp_path: Path) -> None:
    folder, _ = begin(tmp_path, colours(8), equal="steps", steps=100_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "igds.finetuning.train", str(folder.path), "--attached"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None and process.stdin is not None
    process.stdout.readline()
    assert process.poll() is None
    process.stdin.close()
    start = time.monotonic()
    assert process.wait(60) == 1
    assert time.monotonic() - start < 30
