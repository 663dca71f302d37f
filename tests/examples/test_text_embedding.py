import numpy as np
import pytest

from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.wire import Payload, Tensor
from smartbatch.worker.models import LoadContext, Model, resolve


@pytest.fixture(scope="module")
def model() -> Model:
    model = resolve("examples.text_embedding:TextEmbedding")
    model.load(LoadContext(device="cpu", torch_threads=1))
    return model


def embed(model: Model, *texts: str) -> np.ndarray:
    rows = model.decode(Payload("text", list(texts)))
    outputs = model.encode(model.separate(model.forward(model.collate(rows)), len(rows)), {}).outputs
    assert outputs is not None
    return np.frombuffer(outputs["output"].data, np.float32).reshape(outputs["output"].shape)


def test_similar_texts_have_similar_embeddings(model):
    king, queen, car = embed(model, "king", "queen", "car")
    assert king @ queen > king @ car + 0.2
    assert np.linalg.norm(king) == pytest.approx(1.0, abs=1e-5)


def test_padding_does_not_change_an_embedding(model):
    long = "a much longer sentence, with many more words in it than the other one has " * 4
    assert np.abs(embed(model, "a cat", long)[0] - embed(model, "a cat")[0]).max() < 1e-5


def test_long_texts_are_truncated(model):
    assert len(model.decode(Payload("text", ["word " * 1000]))[0]) == 256


def test_other_input_is_rejected(model):
    with pytest.raises(InvalidInput, match="expected text, got tensor"):
        model.decode(Payload("tensor", Tensor("float32", (1, 1), b"\0" * 4)))


def test_example_warms_up(model):
    assert len(model.separate(model.forward(model.collate([model.example()])), 1)) == 1
