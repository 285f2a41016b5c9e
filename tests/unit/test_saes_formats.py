"""Every release format: equal to its published forward, by features as whole, and refusals."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_releases import D_SAE, RELEASES, K, Release, X, gemma_scope, llama_scope, sparsify
from safetensors.torch import load_file, save_file

from igds.config import schema
from igds.errors import RequestError
from igds.saes.formats.table import find_format
from igds.saes.load import find_sae, load_sae, open_sae
from igds.saes.weights import WeightFile, convert_npz


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGDS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Release:
    return RELEASES[request.param](tmp_path)


def spec(path: Path, **settings: object):
    return find_sae(schema.SAE(path=str(path), **settings), Path())


def test_activations_and_output_are_those_of_the_published_forward(release: Release) -> None:
    sae = load_sae(release.path)
    acts = sae.encode(X)
    assert sae.layer == 2
    assert 0 < (release.acts > 0).float().mean() < 1
    assert (acts - release.acts).abs().max() <= 1e-5 * release.acts.abs().max()
    assert torch.equal(acts.topk(3, dim=1).indices, release.acts.topk(3, dim=1).indices)
    rebuilt = sae.decode(acts)
    assert (rebuilt - release.rebuilt).abs().max() <= 1e-5 * release.rebuilt.abs().max()


@pytest.mark.parametrize("held", [0, 1 << 26])
def test_some_features_read_alone_equal_the_whole(
    release: Release, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TopK encoders are held in memory or read again for every batch of rows, by their size.
    monkeypatch.setattr("igds.saes.stored.HELD", held)
    sae = load_sae(release.path)
    wanted = [7, 47, 0, 7, 21]
    columns = open_sae(spec(release.path)).columns(wanted)
    assert (columns.layer, columns.d_sae) == (2, D_SAE)
    torch.testing.assert_close(columns.encode_columns(X, wanted), sae.encode(X)[:, wanted])
    assert torch.equal(columns.decoder_rows([21, 0]), sae.decoder_rows([21, 0]))
    assert torch.equal(open_sae(spec(release.path)).decoder_rows([5]), sae.decoder_rows([5]))
    with pytest.raises(ValueError, match="L2/1 is not among the features that were read"):
        columns.encode_columns(X, [1])
    with pytest.raises(ValueError, match=f"no feature L2/{D_SAE}"):
        open_sae(spec(release.path)).columns([D_SAE])


@pytest.mark.parametrize("bits", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_read_to_float32(tmp_path: Path, bits: torch.dtype) -> None:
    release = sparsify(tmp_path)
    stored = {k: v.to(bits) for k, v in load_file(release.path / "sae.safetensors").items()}
    save_file(stored, release.path / "sae.safetensors")
    sae = load_sae(release.path)
    assert {sae.W_enc.dtype, sae.W_dec.dtype, sae.b_enc.dtype} == {torch.float32}
    assert torch.equal(sae.W_dec, stored["W_dec"].float())


def test_pieces_of_a_file_equal_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Chunks of a few rows: every loop over a file turns several times.
    monkeypatch.setattr("igds.saes.weights._CHUNK", 3 * 4 * 10)
    matrix = torch.randn(13, 10)
    save_file({"m": matrix}, tmp_path / "w.safetensors")
    torch.save({"m": matrix}, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        file = WeightFile(tmp_path / name)
        for axis, rows in ((0, matrix), (1, matrix.T)):
            assert torch.equal(file.matrix("m", slice(None), axis), rows)
            assert torch.equal(file.matrix("m", slice(2, 9), axis), rows[2:9])
            assert torch.equal(file.matrix("m", [9, 0, 9, 4], axis), rows[[9, 0, 9, 4]])


def test_units_say_how_activations_were_scaled(tmp_path: Path) -> None:
    assert load_sae(gemma_scope(tmp_path).path).unit == "as stored"
    unit = load_sae(llama_scope(tmp_path).path).unit
    assert unit == "on the input times 2.3094, as sae_lens; OpenMOSS's own is 1/2.3094 of it"


def test_llama_scope_without_the_norm_in_its_gate(tmp_path: Path) -> None:
    release = llama_scope(tmp_path, by_norm=False)
    torch.testing.assert_close(load_sae(release.path).encode(X), release.acts)


def test_published_l0_of_names_and_settings(tmp_path: Path) -> None:
    found = {name: load_sae(make(tmp_path / name).path) for name, make in RELEASES.items()}
    l0 = {name: sae.published_l0 for name, sae in found.items() if sae.published_l0}
    assert l0 == {"gemma_scope": 71, "gemma_scope_2": 20, "qwen_scope": K, "sparsify": K}


def test_npz_is_converted_once_and_again_when_the_copy_is_damaged(tmp_path: Path) -> None:
    params = gemma_scope(tmp_path).path / "params.npz"
    made = convert_npz(params)
    assert made.is_relative_to(tmp_path / "cache" / "saes")
    before = made.stat().st_mtime_ns
    assert (convert_npz(params), made.stat().st_mtime_ns) == (made, before)
    whole = made.read_bytes()
    made.write_bytes(whole[:-4] + b"\0\0\0\0")
    assert convert_npz(params).read_bytes() == whole


def test_arrays_with_pickles_are_refused(tmp_path: Path) -> None:
    path = gemma_scope(tmp_path).path
    np.savez(path / "params.npz", W_enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RequestError, match="params.npz cannot be read: Object arrays"):
        load_sae(path)


class Payload:
    """What a hostile .pt file may hold."""

    def __reduce__(self) -> tuple:
        return (print, ("unpickled",))


def test_pt_files_with_more_than_tensors_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = RELEASES["dl_topk"](tmp_path).path
    torch.save({"encoder.weight": Payload()}, path / "ae.pt")
    with pytest.raises(RequestError, match="ae.pt cannot be read as tensors alone"):
        load_sae(path)
    assert "unpickled" not in capsys.readouterr().out
    torch.save({"a": torch.ones(1)}, path / "ae.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(RequestError, match="not a .pt file that can be mapped"):
        load_sae(path)


def changed(release: Release, file: str, **changes: object) -> Path:
    """Return the SAE's folder after changing settings of one of its files."""
    path = release.path / file
    settings = json.loads(path.read_text())
    inner = settings.get("trainer", settings)
    inner.update(changes)
    path.write_text(json.dumps(settings))
    return release.path


@pytest.mark.parametrize(
    ("name", "file", "changes", "message"),
    [
        ("gemma_scope_2", "config.json", {"architecture": "topk"}, "architecture 'topk'"),
        (
            "gemma_scope_2",
            "config.json",
            {"hf_hook_point_out": "model.layers.2.mlp.output"},
            "is a transcoder",
        ),
        (
            "gemma_scope_2",
            "config.json",
            {"hf_hook_point_in": "model.layers.2.self_attn.o_proj.input"},
            "igds takes SAEs on the output of a decoder block",
        ),
        ("llama_scope", "hyperparams.json", {"hook_point_out": "blocks.2.hook_mlp_out"}, "a trans"),
        ("llama_scope", "hyperparams.json", {"norm_activation": "token-wise"}, "'token-wise'"),
        ("llama_scope", "hyperparams.json", {"jump_relu_threshold": 0.0}, "supported: jumprelu"),
        ("llama_scope", "hyperparams.json", {"use_glu_encoder": True}, "use_glu_encoder"),
        ("sparsify", "cfg.json", {"transcode": True}, "it is a transcoder"),
        ("sparsify", "cfg.json", {"skip_connection": True}, "a linear skip connection"),
        ("sparsify", "cfg.json", {"signed": True}, "TopK by absolute value"),
        ("sparsify", "cfg.json", {"activation": "groupmax"}, "'groupmax' is not supported"),
        ("sparsify", "cfg.json", {"num_latents": 99}, r"is \(48, 12\), its settings say \(99, 12"),
        ("dl_topk", "config.json", {"dict_class": "CrossCoder"}, "'CrossCoder' is not supported"),
        ("dl_topk", "config.json", {"submodule_name": "mlp_out_layer_2"}, "reads 'mlp_out_layer_2"),
        ("dl_topk", "config.json", {"submodule_name": None, "layer": 4}, "reads block 4, not 2"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(
    tmp_path: Path, name: str, file: str, changes: dict, message: str
) -> None:
    path = changed(RELEASES[name](tmp_path), file, **changes)
    with pytest.raises(RequestError, match=message):
        load_sae(path)


def moved(path: Path, place: Path) -> Path:
    """Return the SAE after moving it to a place that says nothing of it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    return path.rename(place)


@pytest.mark.parametrize(
    ("name", "place"),
    [("gemma_scope", "plain"), ("sparsify", "plain"), ("gemma_scope", "layer_2/width_16k")],
)
def test_a_place_that_does_not_name_the_block_needs_it_said(
    tmp_path: Path, name: str, place: str
) -> None:
    path = moved(RELEASES[name](tmp_path / "release").path, tmp_path / place)
    with pytest.raises(RequestError, match=r"set saes\.layer|names the folder after its hook"):
        load_sae(path)
    assert load_sae(path, layer=7).layer == 7


@pytest.mark.parametrize(
    ("name", "place", "message"),
    [
        ("gemma_scope", "gemma-scope-2b-pt-mlp/layer_2/a", "does not read a block's output"),
        ("gemma_scope", "gemma-scope-2b-pt-transcoders/layer_2/a", "does not read a block's"),
        ("gemma_scope", "gemma-scope-2b-pt-res/embedding/a", "does not read a block's output"),
        ("sparsify", "layers.2.mlp", "names the folder after its hook point"),
        ("sparsify", "embed_tokens", "names the folder after its hook point"),
        ("qwen_scope", "elsewhere/layer2.sae.pt", "k is not in the file"),
    ],
)
def test_other_places_of_a_model_are_refused_even_with_a_layer(
    tmp_path: Path, name: str, place: str, message: str
) -> None:
    path = moved(RELEASES[name](tmp_path / "release").path, tmp_path / place)
    with pytest.raises(RequestError, match=message):
        load_sae(path, layer=2)


def test_gemma_scope_2_without_settings_goes_by_its_folder(tmp_path: Path) -> None:
    path = RELEASES["gemma_scope_2"](tmp_path).path
    (path / "config.json").unlink()
    assert load_sae(path).layer == 2
    path = moved(path, tmp_path / "transcoder" / "layer_2_width_16k_l0_small")
    with pytest.raises(RequestError, match="does not read a block's output"):
        load_sae(path)


def test_a_stated_layer_must_be_that_of_the_files(release: Release) -> None:
    with pytest.raises(RequestError, match=r"reads block 2, not 3: mend saes\.layer"):
        load_sae(release.path, layer=3)


def test_an_unknown_folder_lists_what_it_holds_and_what_is_supported(tmp_path: Path) -> None:
    (tmp_path / "sae.bin").write_bytes(b"")
    with pytest.raises(RequestError, match=r"holds sae.bin; igds reads SAELens \(cfg.json, sae_we"):
        find_format(tmp_path)
    with pytest.raises(RequestError, match="is no file of an SAE by itself: name its folder"):
        find_format(tmp_path / "sae.bin")
    (tmp_path / "sae.bin").unlink()
    with pytest.raises(RequestError, match="is empty; igds reads"):
        find_format(tmp_path)


def test_a_folder_of_two_formats_is_refused(tmp_path: Path) -> None:
    path = RELEASES["dl_topk"](tmp_path).path
    (path / "params.npz").write_bytes(b"")
    with pytest.raises(RequestError, match="files of Gemma Scope and of dictionary_learning"):
        load_sae(path)


def test_input_scale_is_for_saelens_folders_alone(release: Release) -> None:
    with pytest.raises(RequestError, match=re.escape("saes.input_scale is for SAELens folders")):
        open_sae(spec(release.path, input_scale=2.0))


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    path = sparsify(tmp_path).path
    (path / "sae.safetensors").write_bytes(b"no")
    with pytest.raises(RequestError, match="sae.safetensors cannot be read"):
        load_sae(path)
    (path / "cfg.json").write_text("[")
    with pytest.raises(RequestError, match="cfg.json is not JSON"):
        load_sae(path)
