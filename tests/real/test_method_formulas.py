"""Methods that read responses, on rows of GSM8K, against the published formulas row by row."""

from dataclasses import asdict

import numpy as np
import pyarrow.parquet as pq
import pytest

import igds
from _common import QUICKSTART, read_rows
from _formulas import formula_scores, largest_differences, read_plainly
from igds.config.scoring import READ_RESPONSES, Score
from igds.data.templates import parse_template
from igds.methods.rds import round_robin
from igds.methods.registry import Ingredients
from igds.models.load import load_causal, load_tokenizer, resolve_model
from method_cost import LIMITS, Work, shard, write_index

ROWS, QUERIES = 20, 3
LONGEST = 350
"""Characters of a row, to save time: 15 % of the rows are no longer."""


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """What igds and the formulas say of the rows, and the embeddings of three other prompts."""
    file, folder = igds.load_config(QUICKSTART / "igds.yaml"), tmp_path_factory.mktemp("index")
    spec = resolve_model(file.config.model, "cpu", file.base)
    template = parse_template(file.config.prompts.template)
    short = [row for row in read_rows("validation") if sum(map(len, row.values())) <= LONGEST]
    rows, others = short[:ROWS], read_rows("prior")[:QUERIES]
    index = write_index(folder, spec, template, file, rows)
    models = {name: asdict(spec) for name in READ_RESPONSES}
    work = Work(
        spec=spec,
        given=Ingredients(residuals=folder, models=models, settings=Score(), seed=0),
        shard=shard(index, ROWS),
        marker=template.cue,
    )
    found = work.arm(*READ_RESPONSES)().to_pylist()
    model, tokenizer = load_causal(spec), load_tokenizer(spec)
    texts = pq.read_table(index, columns=["prompt", "response"]).to_pylist()
    wanted = formula_scores(model, tokenizer, texts, "Solution:")
    prompts = [template.render(row) for row in others]
    queries = [read_plainly(model, tokenizer, prompt, "")[1] for prompt in prompts]
    return found, wanted, np.stack(queries)


def test_scores_equal_the_published_formulas(scored):
    found, wanted, _ = scored
    differences = largest_differences(found, wanted)
    assert set(differences) == {"loss:loss", "ifd:ifd", "superfilter:superfilter", "rds:embedding"}
    assert max(differences.values()) < LIMITS["formula_difference"]
    assert differences["rds:embedding"] < 1e-5
    # A ratio that is left out is compared with nothing: most are there.
    assert sum(row["ifd:ifd"] is not None for row in found) > ROWS / 2


def test_rds_takes_rows_as_a_plain_loop_over_their_embeddings_does(scored):
    found, wanted, queries = scored
    left, order = {place: row["rds:embedding"] for place, row in enumerate(wanted)}, []
    while left:
        query = queries[len(order) % QUERIES]
        order.append(max(left, key=lambda place: float(left[place] @ query)))
        del left[order[-1]]
    embeddings = np.array([row["rds:embedding"] for row in found], dtype=np.float32)
    assert round_robin(queries.astype(np.float32), embeddings).tolist() == order
