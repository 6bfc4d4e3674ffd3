"""Dense retrieval with a small random encoder: what was embedded alike is found."""

from pathlib import Path

import pytest
from stepopsd_envs.search_qa.corpus import CorpusError
from stepopsd_envs.search_qa.dense import DenseRetriever
from stepopsd_envs.search_qa.open_retriever import open_retriever
from stepopsd_envs.search_qa.tasks import write_world

faiss = pytest.importorskip("faiss", reason="the extra `dense` is not installed")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .:?\"'-,0123456789\n"
    vocabulary = {text: number for number, text in enumerate(["[PAD]", "[UNK]", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=256
    )
    fast.save_pretrained(tmp_path / "encoder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(vocabulary), intermediate_size=32, **sizes)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_a_passage_is_found_by_its_own_text_and_foreign_indexes_are_refused(
    encoder: Path, tmp_path: Path
):
    corpus = write_world("easy", 0, tmp_path / "world")[1]
    index = tmp_path / "vectors.faiss"
    faiss.write_index(faiss.IndexFlatIP(32), str(index))
    spec = {
        "kind": "dense",
        "index": str(index),
        "corpus": str(corpus),
        "encoder": str(encoder),
        "query_prefix": "",
    }
    with pytest.raises(CorpusError, match=r"another corpus: it has 0 vectors, but .* 40 lines"):
        open_retriever(spec)

    texts = [passage.contents for passage in _passages(corpus)]
    flat = faiss.IndexFlatIP(32)
    flat.add(_embedder(encoder, corpus, tmp_path).embed(texts))
    faiss.write_index(flat, str(index))
    opened = open_retriever(spec)
    for text, found in zip(texts, opened.search(texts, 3), strict=True):
        assert len(found) == 3 and found[0].contents == text
        assert found[0].score == pytest.approx(1.0, abs=1e-4)


def _passages(corpus: Path):
    from stepopsd_envs.search_qa.corpus import read_corpus

    return list(read_corpus(corpus))


def _embedder(encoder: Path, corpus: Path, folder: Path) -> DenseRetriever:
    """A retriever over zero vectors, for its encoder."""
    import numpy as np

    zeros = faiss.IndexFlatIP(32)
    zeros.add(np.zeros((len(_passages(corpus)), 32), dtype=np.float32))
    faiss.write_index(zeros, str(folder / "zeros.faiss"))
    return DenseRetriever(str(folder / "zeros.faiss"), corpus=str(corpus), encoder=str(encoder))
