import numpy as np
import pytest
import torch

from smartbatch.shared.errors import InvalidInput, ModelFailed, ModelLoadError
from smartbatch.shared.wire import Payload, Raw, Tensor
from smartbatch.worker.models import resolve


def run(model, payload, options=None):
    rows = model.decode(payload)
    return model.encode(model.separate(model.forward(model.collate(rows)), len(rows)), options or {})


def floats(*rows):
    array = np.array(rows, np.float32)
    return Payload("tensor", Tensor("float32", array.shape, array.tobytes()))


def listed(tensor):
    return np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape).tolist()


def test_forward_alone_makes_a_model(serve):
    model = serve("class Mine:\n    def forward(self, batch): return batch * 2")
    assert listed(run(model, floats([1, 2], [3, 4])).outputs["output"]) == [[2, 4], [6, 8]]
    assert model.group(torch.zeros(2)) != model.group(torch.zeros(3))


def test_text_and_raw_bodies_reach_forward_as_lists(serve):
    model = serve("class Mine:\n    def forward(self, batch): return [len(row) for row in batch]")
    assert run(model, Payload("text", ["a", "bcd"])).values == [1, 3]
    assert run(model, Payload("raw", Raw(b"12345", "x/y"))).values == [5]


@pytest.mark.parametrize(
    ("outputs", "want"),
    [
        ("torch.ones(2, 1)", {"output": [[1], [1]]}),
        ("torch.ones(2, dtype=torch.bfloat16)", {"output": [1, 1]}),
        ("np.ones((2, 1), np.int64)", {"output": [[1], [1]]}),
        ("{'a': torch.zeros(2), 'b': np.ones(2)}", {"a": [0, 0], "b": [1, 1]}),
        ("(torch.zeros(2), torch.ones(2))", {"output_0": [0, 0], "output_1": [1, 1]}),
        ("[torch.zeros(1), torch.ones(1)]", {"output": [[0], [1]]}),
    ],
)
def test_arrays_in_any_container_become_output_tensors(serve, outputs, want):
    model = serve(f"class Mine:\n    def forward(self, batch): return {outputs}")
    result = run(model, floats([1], [2]))
    assert {name: listed(tensor) for name, tensor in result.outputs.items()} == want


def test_arrays_of_different_shapes_become_values(serve):
    model = serve("class Mine:\n    def forward(self, batch): return [np.zeros(1), np.ones(2)]")
    assert run(model, floats([1], [2])).values == [[0.0], [1.0, 1.0]]


def test_encode_may_return_anything_json_can_represent(serve):
    model = serve(
        """
        class Mine:
            def forward(self, batch): return batch
            def encode(self, row): return {"best": row.argmax(), "all": row, "name": ("x", None, np.float64(1.5))}
        """
    )
    assert run(model, floats([1, 9])).values == [{"best": 1, "all": [1.0, 9.0], "name": ["x", None, 1.5]}]


def test_encode_that_returns_something_else_is_the_models_failure(serve):
    model = serve("class Mine:\n    def forward(self, b): return b\n    def encode(self, row): return object()")
    with pytest.raises(ModelFailed, match="encode returned a object"):
        run(model, floats([1]))


@pytest.mark.parametrize("error", ["ValueError('too short')", "InvalidInput('too short')"])
def test_a_value_error_of_decode_is_the_clients_fault(serve, error):
    model = serve(
        f"""
        from smartbatch.shared.errors import InvalidInput
        class Mine:
            def decode(self, payload): raise {error}
            def forward(self, batch): return batch
        """
    )
    with pytest.raises(InvalidInput, match="too short"):
        model.decode(floats([1]))


def test_own_collate_takes_rows_of_any_shape_together(serve):
    model = serve(
        """
        class Mine:
            def collate(self, rows): return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            def forward(self, batch): return batch.sum(1)
            def group(self, row): return "all"
        """
    )
    assert model.group(torch.zeros(2)) == model.group(torch.zeros(3)) == "all"
    assert model.separate(model.forward(model.collate([torch.ones(2), torch.ones(3)])), 2) == [2.0, 3.0]


@pytest.mark.parametrize("signature", ["self", "self, device"])
def test_load_may_take_the_device_or_not(serve, signature):
    model = serve(
        f"class Mine:\n    def load({signature}): self.k = 3\n    def forward(self, batch): return batch * self.k"
    )
    assert listed(run(model, floats([1])).outputs["output"]) == [[3]]


# --- several inputs

TWO = """
    from smartbatch.shared.model_info import InputSpec
    class Mine(torch.nn.Module):
        input = {"photo": InputSpec(("image",)), "numbers": InputSpec(("tensor",), "float32", (-1,))}
        def forward(self, %s
"""


def photos_and_numbers(*rows):
    return Payload("inputs", {"photo": Payload("image", [b"ab"] * len(rows)), "numbers": floats(*rows)})


def test_several_inputs_are_stacked_by_name_and_forward_gets_them_as_its_arguments(serve):
    model = serve(TWO % "numbers, photo, scale=10): return numbers * scale + len(photo[0])")
    assert [(spec.name, spec.kinds) for spec in model.inputs] == [("photo", ("image",)), ("numbers", ("tensor",))]
    assert listed(run(model, photos_and_numbers([1, 2], [3, 4])).outputs["output"]) == [[12, 22], [32, 42]]


def test_forward_without_an_argument_for_each_gets_a_dict(serve):
    model = serve(TWO % "batch): return [len(a) + float(b.sum()) for a, b in zip(batch['photo'], batch['numbers'])]")
    assert run(model, photos_and_numbers([1, 2], [3, 4])).values == [5.0, 9.0]


def test_rows_group_by_the_shapes_of_all_their_inputs(serve):
    model = serve(TWO % "batch): return batch")
    one, two = model.decode(photos_and_numbers([1, 2], [3, 4]))
    [longer] = model.decode(photos_and_numbers([1, 2, 3]))
    assert model.group(one) == model.group(two) != model.group(longer)


def test_decode_gets_the_payload_of_each_input(serve):
    model = serve(
        """
        from smartbatch.shared.model_info import InputSpec
        class Mine:
            input = {"words": InputSpec(("text",)), "numbers": InputSpec(("tensor",))}
            def decode(self, inputs):
                assert list(inputs) == ["words", "numbers"], inputs
                return [(word, inputs["numbers"].content.dtype) for word in inputs["words"].content]
            def forward(self, rows): return [f"{word} {dtype}" for word, dtype in rows]
        """
    )
    payload = Payload("inputs", {"numbers": floats([1], [2]), "words": Payload("text", ["a", "b"])})
    assert run(model, payload).values == ["a float32", "b float32"]
    with pytest.raises(InvalidInput, match="the input 'numbers' is missing; the model takes words, numbers"):
        model.decode(Payload("inputs", {"words": Payload("text", ["a"])}))
    with pytest.raises(InvalidInput, match="input 'words': expected text, got tensor"):
        model.decode(Payload("inputs", {"words": floats([1]), "numbers": floats([1])}))
    with pytest.raises(InvalidInput, match="expected the inputs words, numbers by name, got tensor"):
        model.decode(floats([1]))


def test_model_of_one_input_refuses_several(serve):
    model = serve("class Mine:\n    def forward(self, batch): return batch")
    with pytest.raises(InvalidInput, match="expected image or tensor or text or raw, got several inputs"):
        model.decode(photos_and_numbers([1]))


def test_example_of_several_inputs_is_zeros_of_each(serve):
    source = """
        from smartbatch.shared.model_info import InputSpec
        class Mine:
            input = {"a": InputSpec(("tensor",), "float32", (2, -1)), "b": InputSpec(("tensor",), "int64", ())}
            def forward(self, batch): return batch["a"]
    """
    row = serve(source).example()
    assert {name: (value.dtype, tuple(value.shape)) for name, value in row.items()} == {
        "a": (torch.float32, (2, 1)),
        "b": (torch.int64, ()),
    }
    assert serve(source.replace('"int64", ', "None, ")).example() is None


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ("{}", "a model has 1 to 64 inputs, got 0"),
        ("{'../a': InputSpec(('text',))}", "an input's name must be letters, digits and _"),
        ("{'a': InputSpec(('inputs',))}", "input 'a' must be an InputSpec of tensor, text, image or raw"),
        ("{'a': 'text'}", "input 'a' must be an InputSpec"),
    ],
)
def test_inputs_that_cannot_be_are_refused_at_the_start(serve, inputs, text):
    with pytest.raises(ModelLoadError, match=text):
        serve(
            f"""
            from smartbatch.shared.model_info import InputSpec
            class Mine:
                input = {inputs}
                def forward(self, batch): return batch
            """
        )


# --- what is announced


def test_example_comes_from_the_announced_input(serve):
    model = serve(
        """
        from smartbatch.shared.model_info import InputSpec
        class Mine:
            input = InputSpec(("tensor",), "float32", (-1, 4))
            def forward(self, batch): return batch
        """
    )
    assert model.input.shape == (-1, 4) and model.example().shape == (1, 4)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("class Other: pass", "has no class 'Mine'"),
        ("class Mine: pass", r"no method forward\(self, batch\)"),
        ("import no_such_package", "requires 'no_such_package', not installed"),
        ("1 / 0", "importing their_model failed, ZeroDivisionError: division by zero"),
        (
            "class Mine:\n    def __init__(self, x): pass\n    def forward(self, b): return b",
            "Mine.. failed",
        ),
        ("class Mine:\n    def load(self): raise OSError('no\\nfile')\n    def forward(self, b): return b", "no file"),
    ],
)
def test_a_class_that_does_not_load_is_one_clear_line(serve, source, text):
    with pytest.raises(ModelLoadError, match=text) as caught:
        serve(source)
    assert "\n" not in str(caught.value)


def test_missing_module_is_one_clear_line():
    with pytest.raises(ModelLoadError, match="no module 'no_such_module'"):
        resolve("no_such_module.inner:Class")


def test_too_few_outputs_are_the_models_failure(serve):
    model = serve("class Mine:\n    def forward(self, batch): return batch[:1]")
    with pytest.raises(RuntimeError, match="forward returned 1 outputs for 2 rows"):
        run(model, floats([1], [2]))


def test_an_output_without_a_dimension_of_rows_is_the_models_failure(serve):
    model = serve("class Mine:\n    def forward(self, batch): return batch.sum()")
    with pytest.raises(RuntimeError, match="forward returned one number for 2 rows; the first dimension of an output"):
        run(model, floats([1], [2]))


MODULE = """
    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.drop = torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)
        def forward(self, batch): return self.drop(self.layer(batch))
"""
HOLDERS = """
    class Mine:
        def load(self, device):
            self.one, self.many = torch.nn.Dropout(0.5), [torch.nn.Linear(2, 2)]
            self.named = {"c": torch.nn.BatchNorm1d(2)}
        def forward(self, batch): return self.named["c"](self.many[0](self.one(batch)))
"""


def test_a_module_serves_in_evaluation_mode_without_gradients(serve):
    user = serve(MODULE)._user
    assert not any(module.training for module in user.modules())
    assert not any(parameter.requires_grad for parameter in user.parameters())


def test_modules_in_attributes_serve_in_evaluation_mode(serve):
    user = serve(HOLDERS)._user
    assert not any(module.training for module in (user.one, *user.many, *user.named.values()))


def test_train_mode_keeps_a_modules_mode(serve):
    user = serve(HOLDERS.replace("class Mine:", "class Mine:\n        train_mode = True"))._user
    assert user.one.training


def test_modules_on_the_cpu_are_moved_to_the_device(serve, monkeypatch):
    monkeypatch.setattr("smartbatch.worker.core.device.open_device", lambda context: torch.device("meta"))
    user = serve(MODULE)._user
    assert user.layer.weight.device.type == "meta"


def test_weights_fill_a_module(serve, tmp_path):
    torch.save({"layer.weight": torch.eye(2), "layer.bias": torch.ones(2)}, tmp_path / "w.pt")
    model = serve(MODULE, weights=str(tmp_path / "w.pt"))
    assert listed(run(model, floats([1, 2])).outputs["output"]) == [[2, 3]]


def test_load_gets_the_weights_that_it_asks_for(serve):
    source = """
        class Mine:
            def load(self, device, weights): self.weights = weights
            def forward(self, batch): return [self.weights] * len(batch)
    """
    assert run(serve(source, weights="some.pt"), floats([1])).values == ["some.pt"]
    assert run(serve(source), floats([1])).values == [None]


@pytest.mark.parametrize("load", ["", "    def load(self, device): pass"])
def test_weights_that_nothing_reads_are_an_error(serve, load):
    with pytest.raises(ModelLoadError, match=r"MODEL_WEIGHTS=some.pt doesn't apply to their_model:Mine"):
        serve(f"class Mine:\n    def forward(self, batch): return batch\n{load}", weights="some.pt")


def test_a_dtype_that_nothing_reads_is_an_error(serve):
    with pytest.raises(ModelLoadError, match="DTYPE=bfloat16 doesn't apply"):
        serve("class Mine:\n    def forward(self, batch): return batch", dtype="bfloat16")


def test_an_error_of_load_names_the_line_of_the_users_code(serve):
    source = "class Mine:\n    def load(self): torch.load('nowhere.pt')\n    def forward(self, batch): return batch"
    with pytest.raises(ModelLoadError, match=r"FileNotFoundError: .*nowhere.pt.*their_model\.py, line 3\)$"):
        serve(source)
