"""The canonical SAE: activations worked out by hand, and the streamed columns against all."""

import pytest
import torch

from igds.saes.quality import sae_quality
from igds.saes.sae import SAE


def planted(activation: str, **parts: object) -> SAE:
    """Return an SAE with features +x, -x, +y and x+y of a plane; biases 0 unless given."""
    directions = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    settings = {
        "layer": 3,
        "activation": activation,
        "W_enc": directions.T,
        "W_dec": directions,
        "b_enc": torch.zeros(4),
        "b_dec": torch.zeros(2),
        "hook_name": "blocks.3.hook_resid_post",
        "release": "planted",
        "revision": "0",
    }
    return SAE(**settings | parts)


def random_topk(d_sae: int, k: int) -> SAE:
    generator = torch.Generator().manual_seed(d_sae)
    return SAE(
        layer=0,
        activation="topk",
        W_enc=torch.randn(8, d_sae, generator=generator),
        W_dec=torch.randn(d_sae, 8, generator=generator),
        b_enc=torch.randn(d_sae, generator=generator),
        b_dec=torch.randn(8, generator=generator),
        k=k,
        apply_b_dec_to_input=True,
        hook_name="",
        release="random",
        revision="0",
    )


X = torch.tensor([[2.0, 1.0], [-3.0, 1.0], [0.0, 0.0]])


def test_relu_by_hand() -> None:
    sae = planted("relu", b_enc=torch.tensor([0.0, -1.0, 0.5, 0.0]))
    expected = torch.tensor([[2.0, 0, 1.5, 3], [0, 2, 1.5, 0], [0, 0, 0.5, 0]])
    assert torch.equal(sae.encode(X), expected)


def test_b_dec_is_subtracted_only_when_asked() -> None:
    b_dec = torch.tensor([1.0, 1.0])
    plain, centred = (planted("relu", b_dec=b_dec, apply_b_dec_to_input=on) for on in (False, True))
    assert torch.equal(plain.encode(X)[0], torch.tensor([2.0, 0, 1, 3]))
    assert torch.equal(centred.encode(X)[0], torch.tensor([1.0, 0, 0, 1]))


@pytest.mark.parametrize("activation", ["jumprelu", "batchtopk"])
def test_exactly_at_the_threshold_is_inactive(activation: str) -> None:
    threshold = torch.tensor([2.0, 2.0, 0.999, 3.5])
    sae = planted(activation, threshold=threshold)
    expected = torch.tensor([[0.0, 0, 1, 0], [0, 3, 1, 0], [0, 0, 0, 0]])
    assert torch.equal(sae.encode(X), expected)


def test_negative_threshold_activates_nothing_below_zero() -> None:
    sae = planted("jumprelu", threshold=torch.full((4,), -5.0))
    assert torch.equal(sae.encode(X), planted("relu").encode(X))


def test_topk_keeps_the_k_largest_and_no_negative() -> None:
    sae = planted("topk", k=3)
    expected = torch.tensor([[2.0, 0, 1, 3], [0, 3, 1, 0], [0, 0, 0, 0]])
    assert torch.equal(sae.encode(X), expected)


def test_of_tied_topk_values_the_lowest_index_wins() -> None:
    sae = planted("topk", k=1, W_enc=torch.ones(2, 4))
    assert torch.equal(sae.encode(X[:1]), torch.tensor([[3.0, 0, 0, 0]]))
    assert torch.equal(sae.encode_columns(X[:1], [2, 0]), torch.tensor([[0.0, 3.0]]))


def test_a_tie_over_several_blocks_goes_to_the_lowest_index() -> None:
    sae = random_topk(d_sae=5000, k=3)
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(2))
    # Four features of one value on every row: none to three others are better.
    same = torch.tensor([0, 10, 2500, 4999])
    level = sae.pre_activations(x).topk(3, dim=1).values[:, -1].median()
    sae.W_enc[:, same], sae.b_enc[same] = 0.0, float(level)
    acts, columns = sae.encode(x), [4999, 2500, 10, 0]
    assert set((acts[:, columns] > 0).sum(dim=1).tolist()) == {0, 1, 2, 3}
    assert torch.equal(sae.encode_columns(x, columns) > 0, acts[:, columns] > 0)


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "batchtopk", "topk"])
def test_columns_equal_all(activation: str) -> None:
    parts = {"k": 2} if activation == "topk" else {"threshold": torch.tensor([1.0, 2.0, 0.5, 2.5])}
    sae = planted(activation, **({} if activation == "relu" else parts))
    columns = [3, 0, 3, 1]
    assert torch.equal(sae.encode_columns(X, columns), sae.encode(X)[:, columns])


def test_streamed_topk_equals_all_over_several_blocks() -> None:
    sae = random_topk(d_sae=9001, k=40)
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    acts = sae.encode(x)
    assert ((acts > 0).sum(dim=1) == 40).all()
    columns = acts.sum(dim=0).topk(300).indices.tolist()
    torch.testing.assert_close(sae.encode_columns(x, columns), acts[:, columns])


def test_decode_and_decoder_rows() -> None:
    sae = planted("relu", b_dec=torch.tensor([0.5, 0.0]))
    acts = torch.tensor([[1.0, 0, 0, 2]])
    assert torch.equal(sae.decode(acts), torch.tensor([[3.5, 2.0]]))
    assert torch.equal(sae.decoder_rows([3, 1]), torch.tensor([[1.0, 1.0], [-1.0, 0.0]]))


def test_an_sae_prints_in_one_line() -> None:
    assert repr(planted("topk", k=2, layer=9)) == "SAE(L9, topk k=2, 2 -> 4, planted)"
    assert str(planted("relu")) == "SAE(L3, relu, 2 -> 4, planted)"


def test_half_precision_input_is_encoded_in_float32() -> None:
    x = torch.tensor([[0.1, 0.2]], dtype=torch.bfloat16)
    assert torch.equal(planted("relu").encode(x), planted("relu").encode(x.float()))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"activation": "jumprelu"}, "jumprelu needs a threshold"),
        ({"activation": "batchtopk"}, "batchtopk needs a threshold"),
        ({"activation": "topk"}, "k should be 1 to 4, not None"),
        ({"activation": "topk", "k": 5}, "k should be 1 to 4, not 5"),
    ],
)
def test_an_activation_without_its_parameter_is_refused(parts: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planted(**parts)


def test_quality_by_hand() -> None:
    # -y is not described: of the variance 4 * 1 (mean at the origin), 1 is lost.
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    without_sum = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    quality = sae_quality(planted("relu", W_enc=without_sum), x)
    assert quality["edge_cases"] == 10  # values of exactly 0, at the cut of a ReLU
    del quality["edge_cases"]
    assert quality == {"explained_variance": 0.75, "l0": 0.75, "dead_share": 0.25}


def test_quality_needs_a_variance() -> None:
    assert sae_quality(planted("relu"), torch.ones(3, 2))["explained_variance"] is None
    with pytest.raises(ValueError, match="there are none"):
        sae_quality(planted("relu"), torch.ones(0, 2))


def test_values_at_the_edge_of_each_cut_are_counted():
    pre = torch.tensor([[10.0, 2.0, 2.00005, 1.0, 0.00005, -0.00005]])
    plain = {"W_enc": torch.eye(6), "W_dec": torch.eye(6), "b_enc": torch.zeros(6)}
    common = {**plain, "b_dec": torch.zeros(6), "layer": 0, "release": "x", "revision": "0"}
    common["hook_name"] = "blocks.0.hook_resid_post"
    relu = SAE(**common, activation="relu")
    # Within 1e-5 of the largest value, 10, of the cut: 1e-4.
    assert relu.near_cut(pre).tolist() == [[False, False, False, False, True, True]]
    jump = SAE(**common, activation="jumprelu", threshold=torch.full((6,), 2.0))
    assert jump.near_cut(pre).tolist() == [[False, True, True, False, False, False]]
    # The second and third largest lie either side of a top-2 cut; a top-1 cut is far from all.
    assert SAE(**common, activation="topk", k=2).near_cut(pre).sum() == 2
    assert SAE(**common, activation="topk", k=1).near_cut(pre).sum() == 0
