import numpy as np
import pytest
import torch

from smartbatch.shared.errors import InvalidInput, ModelLoadError
from smartbatch.shared.wire import Payload, Tensor
from smartbatch.worker.models import LoadContext, resolve
from smartbatch.worker.models.exported import is_pure


class Scale(torch.nn.Module):
    def forward(self, x):
        return x * 2 + 1


class Named(torch.nn.Module):
    def forward(self, x):
        return {"sum": x.sum(1), "twice": x * 2}


class Pair(torch.nn.Module):
    def forward(self, x):
        return x + 1, x + 2


class Two(torch.nn.Module):
    def forward(self, x, y):
        return x + y


def exported(tmp_path, module, *inputs, dynamic=True):
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = tuple({0: batch} for _ in inputs) if dynamic else None
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(module.eval(), inputs, dynamic_shapes=shapes), path)
    model = resolve(str(path))
    progress: list[str] = []
    model.load(LoadContext(device="cpu", progress=progress.append))
    return model, progress


def run(model, array):
    rows = model.decode(Payload("tensor", Tensor(array.dtype.name, array.shape, array.tobytes())))
    outputs = model.encode(model.separate(model.forward(model.collate(rows)), len(rows)), {}).outputs
    return {name: np.frombuffer(t.data, t.dtype).reshape(t.shape).tolist() for name, t in outputs.items()}


def test_program_with_a_free_batch_runs_any_number_of_rows(tmp_path):
    model, progress = exported(tmp_path, Scale(), torch.zeros(4, 3))
    assert model.input.kinds == ("tensor",) and model.input.shape == (3,) and model.input.dtype == "float32"
    assert run(model, np.array([[1, 2, 3]], np.float32)) == {"output": [[3, 5, 7]]}
    assert run(model, np.full((7, 3), 2, np.float32)) == {"output": [[5, 5, 5]] * 7}
    assert run(model, np.full((100, 3), 2, np.float32)) == {"output": [[5, 5, 5]] * 100}  # over the program's 64
    assert progress == []


@pytest.mark.parametrize("rows", [1, 4, 6, 9])
def test_program_of_fixed_batch_size_gets_batches_split_and_padded(tmp_path, rows):
    model, progress = exported(tmp_path, Scale(), torch.zeros(4, 3), dynamic=False)
    assert "accepts 4 to 4 rows: batches are split and padded" in progress[0]
    array = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    assert run(model, array) == {"output": (array * 2 + 1).tolist()}


def test_outputs_are_named(tmp_path):
    model, _ = exported(tmp_path, Named(), torch.zeros(4, 3))
    assert run(model, np.array([[1, 2, 3]], np.float32)) == {"sum": [6], "twice": [[2, 4, 6]]}
    assert [(spec.name, spec.shape) for spec in model.outputs] == [("sum", ()), ("twice", (3,))]


def test_tuple_outputs_are_numbered(tmp_path):
    model, _ = exported(tmp_path, Pair(), torch.zeros(4, 3))
    assert run(model, np.zeros((1, 3), np.float32)) == {"output_0": [[1, 1, 1]], "output_1": [[2, 2, 2]]}


def of_two(**arrays):
    parts = {name: Payload("tensor", Tensor(a.dtype.name, a.shape, a.tobytes())) for name, a in arrays.items()}
    return Payload("inputs", parts)


@pytest.mark.parametrize(("rows", "dynamic"), [(1, True), (5, True), (1, False), (9, False)])
def test_program_with_two_inputs_takes_them_by_the_names_of_its_signature(tmp_path, rows, dynamic):
    model, _ = exported(tmp_path, Two(), torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64), dynamic=dynamic)
    assert [(spec.name, spec.dtype, spec.shape) for spec in model.inputs] == [
        ("x", "float32", (3,)),
        ("y", "int64", (1,)),
    ]
    example = model.example()
    assert example is not None and (model.input.kinds, example["y"].shape) == (("inputs",), (1,))
    x, y = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3), np.arange(rows).reshape(rows, 1)
    decoded = model.decode(of_two(y=y, x=x))  # in whatever order
    assert len({model.group(row) for row in decoded}) == 1
    outputs = model.encode(model.separate(model.forward(model.collate(decoded)), rows), {}).outputs
    assert outputs is not None
    assert np.array_equal(np.frombuffer(outputs["output"].data, np.float32).reshape(rows, 3), x + y)


def test_program_called_by_keywords_takes_them_by_these_names(tmp_path):
    torch.export.save(
        torch.export.export(Two(), (torch.zeros(2, 3),), {"y": torch.ones(2, 3)}), tmp_path / "keywords.pt2"
    )
    model = resolve(str(tmp_path / "keywords.pt2"))
    model.load(LoadContext(device="cpu"))
    rows = model.decode(of_two(x=np.ones((1, 3), np.float32), y=np.ones((1, 3), np.float32)))
    assert model.separate(model.forward(model.collate(rows)), 1)[0]["output"].tolist() == [2, 2, 2]


def test_wrong_inputs_of_several_are_rejected(tmp_path):
    model, _ = exported(tmp_path, Two(), torch.zeros(4, 3), torch.zeros(4, 3))
    one = np.zeros((1, 3), np.float32)
    with pytest.raises(InvalidInput, match="the input 'y' is missing; the model takes x, y"):
        model.decode(of_two(x=one))
    with pytest.raises(InvalidInput, match="unknown input 'z'"):
        model.decode(of_two(x=one, y=one, z=one))
    with pytest.raises(InvalidInput, match="expected the inputs x, y by name, got tensor"):
        model.decode(Payload("tensor", Tensor("float32", one.shape, one.tobytes())))
    with pytest.raises(InvalidInput, match="dtype float32, got int64"):
        model.decode(of_two(x=one, y=one.astype(np.int64)))


def test_program_whose_inputs_have_batches_of_their_own_is_rejected(tmp_path):
    with pytest.raises(ModelLoadError, match=r"one and the same for all, but .*takes x \[4, 3\], y \[1, 3\]"):
        exported(tmp_path, Two(), torch.zeros(4, 3), torch.zeros(1, 3), dynamic=False)


def test_wrong_input_is_rejected(tmp_path):
    model, _ = exported(tmp_path, Scale(), torch.zeros(4, 3))
    with pytest.raises(InvalidInput, match=r"shape \['rows', 3\], got \[1, 2\]"):
        run(model, np.zeros((1, 2), np.float32))
    with pytest.raises(InvalidInput, match="dtype float32, got int64"):
        run(model, np.zeros((1, 3), np.int64))


class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return x + self.calls


def test_only_a_program_without_state_may_overlap():
    modules = (
        Scale(),
        torch.nn.ReLU(inplace=True),
        torch.nn.Sequential(Scale(), torch.nn.ReLU(inplace=True)),
        Counting(),
    )
    pure = [is_pure(torch.export.export(module, (torch.zeros(4, 3),))) for module in modules]
    assert pure == [True, True, True, False]


def test_missing_and_broken_files_are_one_line(tmp_path):
    with pytest.raises(ModelLoadError, match="there is no file"):
        resolve("gone.pt2").load(LoadContext(device="cpu"))
    (tmp_path / "bad.pt2").write_bytes(b"not a zip")
    with pytest.raises(ModelLoadError, match=r"is not a program saved by torch\.export") as caught:
        resolve(str(tmp_path / "bad.pt2")).load(LoadContext(device="cpu"))
    assert "\n" not in str(caught.value)
