"""A whole tiny project on disk: model, SAEs, rows and a configuration that runs in seconds."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import torch
from tests.helpers import save_tiny

import igds
from igds.config.load import load_config
from igds.pipeline import Run
from igds.progress import SilentProgress
from igds.saes.formats.saelens import write_saelens
from igds.saes.sae import SAE

CONFIG = """
name: tiny
model: {id: model, dtype: float32}
saes: [{path: saes/L1}, {path: saes/L2}]
task: {name: sums, response: " {answer}", metric: exact_match}
prompts: {template: "{question}\\nSum:", control_templates: ["{text}\\nTop:"]}
data:
  prior: [{path: prior.jsonl}]
  validation: [{path: validation.jsonl}]
  control: [{path: control.jsonl}]
  pool: [{path: pool.jsonl}]
recall: {min_frequency: 0.8}
intervene:
  screen_rows: 6
  order_rows: 6
  confirm_rows: 6
  screen_keep: 4
  controls: 19
  screen_check: 2
  exact_keep: 3
  confirm_n: 2
  allow_unconfirmed: true
score: {methods: [igds, igds-random, cosine, cosine-best, length, prompt-length, random]}
select: {budget: {ratio: 0.25}}
report: {rows: 3}
runtime: {threads: 1, shard_rows: 16, batch_tokens: 512}
"""


def tiny_sae(layer: int, d_sae: int = 24) -> SAE:
    """Return a random ReLU SAE on the tiny model's block."""
    draw = torch.Generator().manual_seed(layer)
    W_enc = torch.randn(32, d_sae, generator=draw)
    return SAE(
        layer=layer,
        activation="relu",
        W_enc=W_enc,
        W_dec=torch.randn(d_sae, 32, generator=draw),
        b_enc=torch.zeros(d_sae),
        b_dec=torch.zeros(32),
        hook_name=f"blocks.{layer}.hook_resid_post",
        release="tiny",
        revision="0",
    )


def sums(n: int, seed: int) -> list[dict[str, str]]:
    """Return n different sums of numbers in words of no fixed length."""
    draw = random.Random(seed)
    rows = []
    for _ in range(n):
        a, b = draw.randrange(10_000), draw.randrange(10_000)
        tail = "!" * draw.randrange(12)
        rows.append({"question": f"{a} and {b} of set {seed}{tail}", "answer": str(a + b)})
    return rows


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def build_project(folder: Path) -> Path:
    """Write a tiny project with `igds.yaml` into a folder and return it."""
    save_tiny(folder / "model")
    for layer in (1, 2):
        write_saelens(tiny_sae(layer), folder / "saes" / f"L{layer}")
    for seed, (name, n) in enumerate((("prior", 20), ("validation", 18), ("pool", 60))):
        write_rows(folder / f"{name}.jsonl", sums(n, seed))
    words = [{"question": f"a river {place} runs down to sea"} for place in range(20)]
    write_rows(folder / "control.jsonl", words)
    (folder / "igds.yaml").write_text(CONFIG)
    return folder


def run(project: Path, *overrides: str, **options: Any) -> Run:
    """Run the project's configuration with overrides."""
    file = load_config(project / "igds.yaml", list(overrides))
    return igds.run(file, **{"progress": SilentProgress(), **options})


def computed_files(folder: Path) -> dict[str, str]:
    """Return relative path -> sha256 of everything that a run computes."""
    stages = ("index", "recall", "intervene", "score", "select", "report")
    found = [p for stage in stages for p in sorted((folder / stage).rglob("*")) if p.is_file()]
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in found
        if p.name != "index.html"  # it names times and memory
    }
