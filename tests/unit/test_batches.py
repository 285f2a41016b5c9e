from hypothesis import given
from hypothesis import strategies as st

from igds.reading.batches import plan_batches

LENGTHS = st.lists(st.integers(1, 60), max_size=80)


def test_planted_plan():
    # Sorted: 2 (place 1), 2 (place 4), 3 (place 2), 5 (place 0), 12 (place 3).
    assert plan_batches([5, 2, 3, 12, 2], batch_tokens=9) == [[1, 4, 2], [0], [3]]


@given(LENGTHS, st.integers(1, 200))
def test_every_row_once_and_no_batch_over_the_limit(lengths, batch_tokens):
    batches = plan_batches(lengths, batch_tokens)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[place] for place in batch)
        assert padded <= batch_tokens or len(batch) == 1


@given(LENGTHS, st.integers(1, 200))
def test_batches_are_filled(lengths, batch_tokens):
    batches = plan_batches(lengths, batch_tokens)
    for batch, following in zip(batches, batches[1:], strict=False):
        assert (len(batch) + 1) * lengths[following[0]] > batch_tokens
