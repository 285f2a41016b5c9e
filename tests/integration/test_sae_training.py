"""`igds saes train` on a tiny model: captured residuals, a killed pass, and what is written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import save_tiny, tiny_model
from sae_lens import SAE as LensSAE

from igds.errors import RequestError
from igds.progress import SilentProgress
from igds.sae_training import train as train_module
from igds.sae_training.activations import Residuals, capture_residuals
from igds.sae_training.corpus import Text
from igds.sae_training.train import train_saes
from igds.saes.load import load_sae
from igds.saes.untrained import random_directions

CONFIG = """
model: {{id: model}}
layers: [0, 2]
text_root: .
output: saes
cache: cache
architecture: {architecture}
d_sae: 64
l0: 6
context: 100
epochs: 12
batch: 64
lr: 3.0e-3
holdout: 10
read_sources: [rows]
sources:
  - name: rows
    license: MIT
    url: https://example.org
    path: rows.jsonl
    tokens: 6000
    templates: ["{{text}}\\nNext:", "{{text}}"]
"""


def prepare(folder: Path, architecture: str = "topk") -> Path:
    """Write a tiny model, rows of simple text and the settings; return the settings' path."""
    save_tiny(folder / "model")
    words = ["red", "blue", "green", "tall", "short"]
    rows = [
        f"{words[n % 5]} house {n} {words[n // 5 % 5]} tree {words[n // 25 % 5]}"
        for n in range(125)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    path = folder / "saes.yaml"
    path.write_text(CONFIG.format(architecture=architecture))
    return path


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka", "jumprelu"])
def test_trained_saes_are_written_measured_and_read_by_sae_lens(
    tmp_path: Path, architecture: str
) -> None:
    table = train_saes(prepare(tmp_path, architecture))
    assert json.loads((tmp_path / "saes" / "quality.json").read_text()) == table
    assert [row["layer"] for row in table] == [0, 2]
    for row in table:
        folder = tmp_path / "saes" / f"L{row['layer']}"
        sae = load_sae(folder, row["layer"])
        theirs = LensSAE.load_from_disk(folder)
        x = torch.randn(50, 32)
        with torch.no_grad():
            acts = theirs.encode(x)
        assert (sae.encode(x) - acts).abs().max() <= 1e-5 * acts.abs().max()
        assert row["explained_variance"] > 0.6
        assert row["read_explained_variance"] < 1
        assert 0 <= row["dead_share"] <= row["read_dead_share"] <= 1
        stored = json.loads((folder / "cfg.json").read_text())["metadata"]
        assert stored["prepend_bos"] is True  # the tiny tokenizer puts one before every text
        assert stored["training_text"][0]["license"] == "MIT"
    ranges = {"topk": (6, 6), "batchtopk": (3, 10), "matryoshka": (3, 10), "jumprelu": (1, 64)}
    low, high = ranges[architecture]
    assert all(low <= row["l0"] <= high for row in table)


def test_read_sources_whose_prompts_are_all_too_long_are_refused_before_the_pass(
    tmp_path: Path,
) -> None:
    with pytest.raises(RequestError, match="no prompt of rows is left to measure quality by"):
        train_saes(prepare(tmp_path), ["--context", "5"])
    assert not (tmp_path / "cache").exists()


def test_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    path = prepare(tmp_path)
    options = ["--layers", "[0]", "--epochs", "1"]
    train_saes(path, options)
    first = (tmp_path / "saes" / "L0" / "sae_weights.safetensors").read_bytes()
    train_saes(path, [*options, "--output", "again", "--cache", "other"])
    assert (tmp_path / "again" / "L0" / "sae_weights.safetensors").read_bytes() == first


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka", "jumprelu"])
def test_a_frozen_decoder_never_moves_while_the_rest_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    path, options = prepare(tmp_path, architecture), ["--layers", "[0]"]
    train, trained = train_module.train_layer, []

    def recorded(*arguments, **options):
        trained.append(train(*arguments, **options))
        return trained[-1]

    monkeypatch.setattr(train_module, "train_layer", recorded)
    frozen = [*options, "--decoder", "frozen"]
    (long,) = train_saes(path, frozen)
    (short,) = train_saes(path, [*frozen, "--epochs", "1", "--output", "short"])
    (free,) = train_saes(path, [*options, "--output", "free"])
    # Before float16 could hide a small step: no bit differs after 1 epoch and after 12.
    assert torch.equal(trained[0].W_dec, trained[1].W_dec)
    assert not torch.equal(trained[0].W_enc, trained[1].W_enc)
    assert long["explained_variance"] < free["explained_variance"]
    if architecture != "jumprelu":  # whose l0 is still far over its target after one epoch
        assert short["explained_variance"] < long["explained_variance"]
    written, directions = load_sae(tmp_path / "saes" / "L0").W_dec, random_directions(0, 0, 64, 32)
    cosines = torch.nn.functional.cosine_similarity(written, directions)
    assert (1 - cosines).abs().max() < 1e-5
    assert (torch.nn.functional.cosine_similarity(trained[2].W_dec, directions) < 0.9).all()
    stored = json.loads((tmp_path / "saes" / "L0" / "cfg.json").read_text())["metadata"]
    assert stored["decoder"] == "frozen"


def test_a_frozen_decoder_is_another_recipe(tmp_path: Path) -> None:
    path, options = prepare(tmp_path), ["--layers", "[0]", "--epochs", "1"]
    train_saes(path, options)
    with pytest.raises(RequestError, match="L0 holds an SAE that other settings or text made"):
        train_saes(path, [*options, "--decoder", "frozen"])
    with pytest.raises(RequestError, match="decoder"):
        train_saes(path, [*options, "--decoder", "frosen"])


@pytest.mark.parametrize("decoder", ["trained", "frozen"])
def test_a_killed_run_keeps_the_saes_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: str
) -> None:
    path, options = prepare(tmp_path), ["--epochs", "1", "--decoder", decoder]
    once = train_saes(path, [*options, "--output", "whole"])
    train, trained = train_module.train_layer, []

    def killed_at_block_2(config, residuals, layer, progress, **options):
        trained.append(layer)
        if trained == [0, 2]:
            raise KeyboardInterrupt
        return train(config, residuals, layer, progress, **options)

    monkeypatch.setattr(train_module, "train_layer", killed_at_block_2)
    with pytest.raises(KeyboardInterrupt):
        train_saes(path, options)
    (tmp_path / "saes" / "L2.part").mkdir()
    assert train_saes(path, options) == once
    assert trained == [0, 2, 2]
    assert sorted(p.name for p in (tmp_path / "saes").iterdir()) == ["L0", "L2", "quality.json"]
    for name in ("L0", "L2"):
        files = [tmp_path / f / name / "sae_weights.safetensors" for f in ("saes", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_saes_of_other_settings_are_not_replaced(tmp_path: Path) -> None:
    path, options = prepare(tmp_path), ["--layers", "[0]", "--epochs", "1"]
    train_saes(path, options)
    with pytest.raises(RequestError, match="L0 holds an SAE that other settings or text made"):
        train_saes(path, [*options, "--l0", "5"])


def test_matryoshka_widths_must_rise_to_d_sae(tmp_path: Path) -> None:
    path = prepare(tmp_path, "matryoshka")
    with pytest.raises(RequestError, match=r"must rise to d_sae, 64, not \[8, 32\]"):
        train_saes(path, ["--matryoshka-widths", "[8, 32]"])
    with pytest.raises(RequestError, match="are for matryoshka, not for topk"):
        train_saes(path, ["--architecture", "topk", "--matryoshka-widths", "[8, 64]"])


def test_a_layer_the_model_lacks_and_too_little_text(tmp_path: Path) -> None:
    path = prepare(tmp_path)
    with pytest.raises(RequestError, match="layers: the model has blocks 0 to 3"):
        train_saes(path, ["--layers", "[4]"])
    with pytest.raises(RequestError, match="fewer than one batch of 100000"):
        train_saes(path, ["--batch", "100000"])


def texts(count: int = 150) -> list[Text]:
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 12, size=count)
    return [
        Text(
            source="a" if row % 2 else "b",
            ids=tuple(generator.integers(3, 259, size=length).tolist()),
            cue=row % 3 == 0,
            held_out=row < 5,
        )
        for row, length in enumerate(lengths)
    ]


def capture_all(model: torch.nn.Module, folder: Path, rows: list[Text]) -> Residuals:
    return capture_residuals(
        model,
        rows,
        [0, 2],
        folder,
        identity={"model": "tiny"},
        batch_tokens=16,
        progress=SilentProgress(),
    )


def test_captured_residuals_equal_plain_forwards(tmp_path: Path) -> None:
    model, rows = tiny_model().model, texts(20)
    found = capture_all(model, tmp_path, rows)
    with torch.no_grad():
        outputs = [
            model(input_ids=torch.tensor([text.ids]), output_hidden_states=True).hidden_states
            for text in rows
        ]
    for layer in (0, 2):
        expected = torch.cat([states[layer + 1][0] for states in outputs]).numpy()
        scale = np.abs(expected).max()
        assert np.abs(found.layer(layer).astype(np.float32) - expected).max() < 2**-11 * scale
    ends = np.cumsum([len(text.ids) for text in rows]) - 1
    assert np.flatnonzero(found.cue).tolist() == ends[::3].tolist()
    assert found.held_out.sum() == ends[4] + 1
    assert found.source[ends].tolist() == ["b", "a"] * 10


class KilledError(Exception):
    """Stands for the death of the process."""


def test_a_killed_pass_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    model, rows = tiny_model().model, texts()
    whole = capture_all(model, tmp_path / "whole", rows)
    calls = 0

    def die(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 60:
            raise KilledError

    handle = model.register_forward_pre_hook(die)
    with pytest.raises(KilledError):
        capture_all(model, tmp_path / "killed", rows)
    done = json.loads((tmp_path / "killed" / "done.json").read_text())["batches"]
    assert 0 < done < 60
    calls = 1000
    resumed = capture_all(model, tmp_path / "killed", rows)
    handle.remove()
    # Flushed batches are not run again.
    assert calls - 1000 < 150 - done
    for layer in (0, 2):
        assert np.array_equal(resumed.layer(layer), whole.layer(layer))


def test_residuals_of_another_text_are_refused(tmp_path: Path) -> None:
    model, rows = tiny_model().model, texts(20)
    capture_all(model, tmp_path, rows)
    with pytest.raises(RequestError, match="residuals of another text, tokens"):
        capture_all(model, tmp_path, rows[1:])
