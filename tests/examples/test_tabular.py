import numpy as np
import pytest

from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.wire import Payload, Tensor
from smartbatch.worker.models import LoadContext, Model, resolve


@pytest.fixture(scope="module")
def model() -> Model:
    model = resolve("examples.tabular:Iris")
    model.load(LoadContext(device="cpu", torch_threads=1))
    return model


def payload(*rows: list[float]) -> Payload:
    array = np.array(rows)
    return Payload("tensor", Tensor("float64", array.shape, array.tobytes()))


def test_flowers_are_classified(model):
    rows = model.decode(payload([5.1, 3.5, 1.4, 0.2], [6.0, 2.7, 4.2, 1.3], [6.9, 3.2, 5.7, 2.3]))
    values = model.encode(model.separate(model.forward(model.collate(rows)), 3), {}).values
    assert values is not None
    assert [value["species"] for value in values] == ["setosa", "versicolor", "virginica"]
    assert all(0.7 < value["probability"] <= 1 for value in values)


def test_other_shapes_are_rejected(model):
    with pytest.raises(InvalidInput, match=r"\['rows', 4\], got \[1, 3\]"):
        model.decode(payload([1.0, 2.0, 3.0]))
