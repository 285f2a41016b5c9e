"""SAE folders: what is read back, and every way in which they can be wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from igds.config import schema
from igds.errors import RequestError
from igds.saes.formats.saelens import CONFIG, WEIGHTS, write_saelens
from igds.saes.load import load_sae, locate_saes, read_sae
from igds.saes.sae import SAE

D_IN, D_SAE = 6, 10


def random_sae(activation: str = "jumprelu", layer: int = 2) -> SAE:
    generator = torch.Generator().manual_seed(layer)
    return SAE(
        layer=layer,
        activation=activation,
        W_enc=torch.randn(D_IN, D_SAE, generator=generator),
        W_dec=torch.randn(D_SAE, D_IN, generator=generator),
        b_enc=torch.randn(D_SAE, generator=generator),
        b_dec=torch.randn(D_IN, generator=generator),
        threshold=None if activation in ("relu", "topk") else torch.rand(D_SAE),
        k=3 if activation == "topk" else None,
        apply_b_dec_to_input=True,
        hook_name=f"blocks.{layer}.hook_resid_post",
        neuronpedia_id="tiny/2-res",
        release="ours",
        revision="",
    )


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    weights = load_file(folder / WEIGHTS) | changes
    save_file(
        {name: value for name, value in weights.items() if value is not None}, folder / WEIGHTS
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_saelens(random_sae(), tmp_path / "sae")
    return tmp_path / "sae"


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk", "batchtopk"])
def test_what_is_written_is_read(tmp_path: Path, activation: str) -> None:
    sae = random_sae(activation)
    write_saelens(sae, tmp_path)
    found = load_sae(tmp_path)
    x = torch.randn(20, D_IN)
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        assert torch.equal(getattr(found, name), getattr(sae, name))
    # Matrices of other strides are multiplied in another order on some CPUs.
    torch.testing.assert_close(found.encode(x), sae.encode(x))
    torch.testing.assert_close(found.decode(found.encode(x)), sae.decode(sae.encode(x)))
    assert (found.layer, found.neuronpedia_id, found.release) == (2, "tiny/2-res", tmp_path.name)


def test_float16_matrices_keep_float32_thresholds_and_biases(tmp_path: Path) -> None:
    sae = random_sae()
    write_saelens(sae, tmp_path, weights=torch.float16)
    stored = load_file(tmp_path / WEIGHTS)
    assert stored["W_enc"].dtype == stored["W_dec"].dtype == torch.float16
    found = load_sae(tmp_path)
    assert found.W_enc.dtype == torch.float32
    assert torch.equal(found.W_enc, sae.W_enc.half().float())
    assert torch.equal(found.threshold, sae.threshold)
    assert torch.equal(found.b_enc, sae.b_enc)


def test_weights_over_float16_are_refused(tmp_path: Path) -> None:
    sae = random_sae()
    sae.W_dec[0, 0] = 1e5
    with pytest.raises(ValueError, match="too large for torch.float16"):
        write_saelens(sae, tmp_path, weights=torch.float16)


def test_what_the_release_states(tmp_path: Path) -> None:
    for activation, stated in (("topk", 3.0), ("jumprelu", None), ("batchtopk", None)):
        write_saelens(random_sae(activation), tmp_path / activation)
        found = load_sae(tmp_path / activation)
        assert (found.published_l0, found.prepend_bos) == (stated, None)
    named = tmp_path / "layer_2" / "width_16k" / "average_l0_71"
    write_saelens(random_sae(), named, metadata={"prepend_bos": True})
    assert (load_sae(named).published_l0, load_sae(named).prepend_bos) == (71.0, True)
    write_saelens(random_sae(), named, metadata={"l0": 84.5})
    assert load_sae(named).published_l0 == 84.5
    write_saelens(random_sae(), tmp_path / "x", metadata={"sae_id": "layer_2/average_l0_9"})
    assert load_sae(tmp_path / "x").published_l0 == 9


def test_encoder_columns_are_contiguous(folder: Path) -> None:
    assert load_sae(folder).W_enc.T.is_contiguous()


def test_revision_changes_with_weights_and_settings(folder: Path) -> None:
    first = load_sae(folder).revision
    assert load_sae(folder).revision == first
    edit_config(folder, apply_b_dec_to_input=False)
    second = load_sae(folder).revision
    edit_weights(folder, b_dec=torch.zeros(D_IN))
    assert len({first, second, load_sae(folder).revision}) == 3


def test_flat_settings_of_old_versions(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    flat = {"d_in": D_IN, "d_sae": D_SAE, "hook_point": "blocks.2.hook_resid_post"}
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
    assert config["architecture"] == "jumprelu"
    (folder / CONFIG).write_text(json.dumps(flat | topk))
    sae = load_sae(folder)
    assert (sae.activation, sae.k, sae.apply_b_dec_to_input) == ("topk", 4, True)
    (folder / CONFIG).write_text(json.dumps(flat | {"normalize_activations": False}))
    assert load_sae(folder).activation == "relu"


def test_decoder_norm_rescaling_is_folded(tmp_path: Path) -> None:
    sae = random_sae("topk")
    write_saelens(sae, tmp_path)
    edit_config(tmp_path, rescale_acts_by_decoder_norm=True)
    x = torch.randn(20, D_IN)
    norms = sae.W_dec.norm(dim=1)
    pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc) * norms
    top = pre.topk(3, dim=1)
    expected = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    found = load_sae(tmp_path)
    torch.testing.assert_close(found.encode(x), expected)
    rebuilt = (expected / norms) @ sae.W_dec + sae.b_dec
    torch.testing.assert_close(found.decode(found.encode(x)), rebuilt)


@pytest.mark.parametrize("name", ["model.layers.2", "model.model.layers.2", "layers.2"])
def test_transformers_hook_names(folder: Path, name: str) -> None:
    edit_config(folder, metadata={"hook_name": name})
    assert load_sae(folder, 2).hook_name == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "abstopk"}, "'abstopk' is not supported; supported: standard, gated"),
        ({"activation_fn": "tanh-relu"}, "activation function 'tanh-relu' is not supported"),
        (
            {"normalize_activations": "layer_norm"},
            "'layer_norm': scales each input by its own norm",
        ),
        ({"normalize_activations": "constant_norm_rescale"}, "scales each input by its own norm"),
        ({"normalize_activations": "covariance_whitening"}, "fold the whitening into the weights"),
        ({"normalize_activations": "expected_average_only_in"}, "set saes.input_scale to sqrt"),
        ({"normalize_activations": "other"}, "'other': igds does not know it"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
        ({"metadata": {"hook_name": "blocks.2.hook_mlp_out"}}, "reads 'blocks.2.hook_mlp_out'"),
        ({"metadata": {}}, "reads ''; igds takes SAEs on the output of a decoder block"),
        ({"d_sae": 11}, r"W_enc is \(6, 10\), its settings say \(6, 11\)"),
    ],
)
def test_settings_that_are_not_supported(folder: Path, changes: dict, message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(RequestError, match=message):
        load_sae(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder: Path, value: float) -> None:
    weights = load_file(folder / WEIGHTS)["W_dec"]
    weights[3, 3] = value
    edit_weights(folder, W_dec=weights)
    with pytest.raises(RequestError, match="W_dec has values that are not finite"):
        load_sae(folder)


def test_missing_weight_damaged_file_missing_file(folder: Path) -> None:
    edit_weights(folder, threshold=None)
    with pytest.raises(RequestError, match="has no threshold; it has"):
        load_sae(folder)
    (folder / WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(RequestError, match="cannot be read"):
        load_sae(folder)
    (folder / CONFIG).write_text("{")
    with pytest.raises(RequestError, match="is not JSON"):
        load_sae(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(RequestError, match=r"holds sae_weights\.safetensors; igds reads SAELens"):
        load_sae(folder)


def test_another_layer_than_asked_for(folder: Path) -> None:
    with pytest.raises(RequestError, match="reads block 2, not 5: mend saes.layer"):
        load_sae(folder, 5)


def test_saes_of_a_run_in_block_order(tmp_path: Path) -> None:
    for layer in (3, 1):
        write_saelens(random_sae(layer=layer), tmp_path / f"L{layer}")
    configs = (schema.SAE(path="L3", release="mine"), schema.SAE(path="L1", layer=1))
    assert list(locate_saes(configs, tmp_path, D_IN, 4)) == [1, 3]
    found = locate_saes(configs, tmp_path, D_IN, 4)
    assert [read_sae(spec).release for spec in found.values()] == ["L1", "mine"]


@pytest.mark.parametrize(
    ("layers", "d_model", "n_blocks", "message"),
    [
        ((2,), D_IN + 1, 4, "trained on d_in = 6, but the model's d_model is 7"),
        ((2,), D_IN, 2, "reads block 2, but the model has blocks 0 to 1"),
        ((1, 2, 1), D_IN, 4, "two SAEs read block 1"),
        ((), D_IN, 4, "saes is empty"),
    ],
)
def test_saes_that_do_not_fit_the_model(
    tmp_path: Path, layers: tuple, d_model: int, n_blocks: int, message: str
) -> None:
    for number, layer in enumerate(layers):
        write_saelens(random_sae(layer=layer), tmp_path / str(number))
    configs = [schema.SAE(path=str(number)) for number in range(len(layers))]
    with pytest.raises(RequestError, match=message):
        locate_saes(configs, tmp_path, d_model, n_blocks)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    configs = [schema.SAE(path="here"), schema.SAE(path="nowhere")]
    write_saelens(random_sae(), tmp_path / "here")
    with pytest.raises(RequestError, match=r"saes\.1: .*nowhere is not there; igds reads SAELens"):
        locate_saes(configs, tmp_path, D_IN, 4)
    with pytest.raises(RequestError, match=r"nowhere is not there"):
        load_sae(tmp_path / "nowhere")
