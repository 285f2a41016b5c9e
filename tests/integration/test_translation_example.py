"""The example of translation is indexed by a tiny model, its sets disjoint."""

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from tests.helpers import save_tiny
from tests.tiny_project import tiny_sae

import igds
from igds.config.load import load_config
from igds.progress import SilentProgress
from igds.saes.formats.saelens import write_saelens

EXAMPLE = Path(__file__).parents[2] / "examples" / "translation"


def test_the_example_is_indexed(tmp_path):
    config = save_tiny(tmp_path / "model").config
    config.max_position_embeddings = 1024
    config.save_pretrained(tmp_path / "model")
    write_saelens(tiny_sae(1), tmp_path / "sae")
    options = {
        "model.id": tmp_path / "model",
        "saes": json.dumps([{"path": str(tmp_path / "sae")}]),
        "runs-dir": tmp_path,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    file = load_config(EXAMPLE / "igds.yaml", words)
    run = igds.run(file, until="index", progress=SilentProgress())
    index = run.folder.path / "index"
    summary = json.loads((index / "summary.json").read_text())
    counts = {name: summary["sets"][name]["status"] for name in ("prior", "validation", "pool")}
    assert counts == {"prior": {"ok": 60}, "validation": {"ok": 60}, "pool": {"ok": 90}}
    assert summary["overlaps"] == []
    rows = [json.loads(line) for line in (EXAMPLE / "pool.jsonl").read_text().split("\n") if line]
    table = pq.read_table(index / "rows-00000.parquet")
    assert table["row_id"].to_pylist() == [row["id"] for row in rows]
    assert table["response"].to_pylist() == [f" {row['target']}" for row in rows]
    assert pc.all(pc.ends_with(table["prompt"], "\nTranslation:")).as_py()
