"""A network that a user hands over: found, served as torchvision's are, or as it is where that can't be."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from smartbatch.shared.errors import ModelFailed, ModelLoadError
from smartbatch.shared.wire import Payload
from smartbatch.worker.optimization.network import ServedNetwork
from tests.worker.models.test_user import floats, listed, run

NET = """
    from smartbatch import InputSpec
    SPEC = InputSpec(("tensor",), "float32", (3, 32, 32))

    class Net(torch.nn.Module):
        input = SPEC
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU(),
                torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
            )
        def forward(self, image): return self.layers(image)
"""


def images(rows: int) -> Payload:
    return floats(*np.random.default_rng(1).random((rows, 3, 32, 32), np.float32))


def test_a_module_a_function_and_an_instance_serve_alike(serve) -> None:
    source = NET + "\n    def make(): return Net()\n    def with_default(seed=0): return Net()\n    net = Net()\n"
    outputs = [listed(run(serve(source, name), images(3)).outputs["output"]) for name in ("Net", "make", "net")]
    assert outputs[0] == outputs[1] == outputs[2]
    assert listed(run(serve(source, "with_default"), images(3)).outputs["output"]) == outputs[0]
    assert serve(source, "make").files == serve(source, "net").files == serve(source, "Net").files


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def Mine(): return 3", r"Mine\(\) returned a int, which has no method forward"),
        ("def Mine(): raise OSError('gone')", r"Mine\(\) failed, OSError: gone .*their_model.py, line 2"),
        ("def Mine(size, depth=1): ...", "Mine is a function of size; a function that makes a model has no arguments"),
        ("Mine = 'net'", "Mine is an object of class str, which has no forward"),
        ("class Mine:\n    def load(self): pass", "has no method forward.* and no network"),
        ("class Mine:\n    def network(self): return 3", r"network\(\) returned a int, not an nn.Module"),
        ("class Mine:\n    def network(self): return 1 / 0", r"network\(\) failed, ZeroDivisionError"),
        (
            "class Mine:\n    def network(self): return torch.nn.ReLU()\n    def forward(self, batch): return batch",
            r"has a method network\(\) besides forward\(\): set self.network in load\(\)",
        ),
    ],
)
def test_what_is_no_model_is_one_clear_line(serve, source: str, text: str) -> None:
    with pytest.raises(ModelLoadError, match=text) as caught:
        serve(source)
    assert "\n" not in str(caught.value)


HANDED = {
    "attribute": "def load(self, device): self.network = Net()",
    "attribute of __init__": "def __init__(self): self.network = Net()",
    "method": "def network(self): return Net()",
    "own forward": "def load(self): self.network = Net()\n        def forward(self, x): return self.network(x) * 2",
    "by keyword": "def load(self): self.network = Net()\n        def forward(self, x): return self.network(image=x)",
}


@pytest.mark.parametrize("how", HANDED)
def test_a_class_hands_its_network_over(serve, how: str) -> None:
    plain, source = serve(NET, "Net"), f"{NET}\n    class Mine:\n        input = SPEC\n        {HANDED[how]}\n"
    model = serve(source, optimize="auto")
    assert isinstance(model.network, ServedNetwork)
    assert model.variant.name in ("eager", "channels_last", "folded channels_last", "winograd")
    expected = np.array(listed(run(plain, images(3)).outputs["output"])) * (2 if how == "own forward" else 1)
    assert np.abs(np.array(listed(run(model, images(3)).outputs["output"])) - expected).max() < 1e-5


def test_variants_of_a_users_module_are_checked_and_timed_like_torchvisions(serve, caplog) -> None:
    caplog.set_level(logging.INFO)
    progress: list[str] = []
    serve(NET, "Net", optimize="auto", progress=progress.append)
    assert progress[:2] == ["trying channels_last", "trying folded channels_last"]
    assert progress[-1].startswith("serving as ")
    assert "OPTIMIZE: folded channels_last is" in caplog.text and "times as fast as eager" in caplog.text


def test_decode_collate_and_encode_stay_those_of_the_class(serve) -> None:
    model = serve(
        NET
        + """
    class Mine:
        def load(self, device): self.network = Net()
        def example(self): return np.arange(3 * 32 * 32).astype(np.uint8).reshape(3, 32, 32)
        def decode(self, payload): return [np.full((3, 32, 32), len(text), np.uint8) for text in payload.content]
        def collate(self, rows): return torch.from_numpy(np.stack(rows))
        def forward(self, pixels): return self.network(pixels.float() / 255)
        def encode(self, row): return {"largest": int(row.argmax())}
    """,
        optimize="auto",
    )
    result = run(model, Payload("text", ["a", "bcd"]))
    assert result.values is not None and [list(value) for value in result.values] == [["largest"], ["largest"]]
    assert model.variant.name != "none"


TEXTS = """
    class Mine:
        def load(self):
            self.network = torch.nn.Conv1d(1, 4, 3, padding=1).double()
        def example(self): return torch.arange(%s).double()
        def decode(self, payload): return [torch.arange(len(text)).double() for text in payload.content]
        def collate(self, rows): return %s.unsqueeze(1)
        def forward(self, batch): return self.network(batch).sum(2)
"""
PADDED = "torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)"


@pytest.mark.parametrize(
    ("length", "collate", "varying"),
    [
        (8, PADDED, {(0, 2)}),
        (1, PADDED, set()),  # nothing shorter to compare with
        (8, "torch.stack([row.reshape(8) for row in rows])", set()),  # rows of one length only
    ],
)
def test_the_dimensions_in_which_batches_differ_are_found(serve, length: int, collate: str, varying: set) -> None:
    model = serve(TEXTS % (length, collate), optimize="auto")
    assert model.network.varying == varying
    result = run(model, Payload("text", ["a" * 8, "b" * 8]))
    assert len(listed(result.outputs["output"])) == 2


def test_attributes_of_a_network_stay_within_reach_of_its_class(serve) -> None:
    model = serve(
        NET
        + """
    class Mine:
        input = SPEC
        def load(self): self.network = Net()
        def forward(self, batch): return self.network(batch)[:, : self.network.layers[0].in_channels]
    """,
        optimize="auto",
    )
    assert run(model, images(2)).outputs["output"].shape == (2, 3)


@pytest.mark.parametrize(
    ("returned", "names"),
    [
        ("{'sum': image.sum((1, 2, 3)), 'image': image * scale.view(-1, 1, 1, 1)}", {"sum", "image"}),
        ("(image.sum((1, 2, 3)), scale * 2)", {"output_0", "output_1"}),
        ("[image.sum((1, 2, 3)), scale * 2][1]", {"output"}),
    ],
)
@pytest.mark.parametrize("by_name", [True, False])
def test_several_inputs_and_outputs_have_variants_too(serve, returned: str, names: set[str], by_name: bool) -> None:
    unpack = "" if by_name else "scale, image = batch['scale'], batch['image']"
    model = serve(
        f"""
        from smartbatch import InputSpec
        class Mine(torch.nn.Module):
            input = {{
                "image": InputSpec(("tensor",), "float32", (3, 8, 8)),
                "scale": InputSpec(("tensor",), "float32", ()),
            }}
            def __init__(self):
                super().__init__()
                self.convolution = torch.nn.Conv2d(3, 3, 3, padding=1)
            def forward(self, {"scale, image" if by_name else "batch"}):
                {unpack or "pass"}
                image = self.convolution(image)
                return {returned}
        """,
        optimize="auto",
    )
    image = np.random.default_rng(0).random((9, 3, 8, 8), np.float32)
    scale = np.arange(9, dtype=np.float32)
    result = run(model, Payload("inputs", {"scale": floats(*scale), "image": floats(*image)}))
    assert result.outputs is not None and result.outputs.keys() == names
    assert model.variant.name in ("eager", "channels_last", "winograd")
    if "output_1" in names:
        assert listed(result.outputs["output_1"]) == (scale * 2).tolist()


REFUSED = {
    "random": ("", "return self.linear(batch) + torch.rand_like(batch)", "the same input gave two outputs"),
    "state": ("self.calls = 0", "self.calls += 1; return batch * self.calls", "the same input gave two outputs"),
    "buffer": (
        "self.register_buffer('seen', torch.zeros(1))",
        "self.seen += 1; return self.linear(batch)",
        "a forward changes its buffers",
    ),
    "kept": (
        "self.out = None",
        "self.out = batch if self.out is None else self.out.copy_(batch); return self.out",
        "its outputs are overwritten by its next forward",
    ),
    "control flow": (
        "",
        "return self.linear(batch) if batch.sum() > 0 else batch",
        "its control flow depends on values",
    ),
    "item": (
        "",
        "return self.linear(batch)[:, : int(batch.max().item() * 0) + 2]",
        "its control flow depends on values",
    ),
    "numpy": (
        "",
        "return torch.from_numpy(np.sqrt(batch.numpy()))",
        "or it leaves torch",
    ),
    "values": ("", "return {'a': batch, 'b': 3}", "its outputs are not all tensors whose first dimension is the rows"),
    "no rows": ("", "return batch, batch.sum()", "its outputs are not all tensors whose first dimension is the rows"),
    "list": ("", "return [3 for row in batch]", "its outputs are not all tensors"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_module_that_allows_no_variant_serves_as_it_is_with_a_reason(serve, why: str, caplog) -> None:
    init, forward, reason = REFUSED[why]
    caplog.set_level(logging.INFO)
    model = serve(
        f"""
        from smartbatch import InputSpec
        class Mine(torch.nn.Module):
            input = InputSpec(("tensor",), "float32", (2,))
            def __init__(self):
                super().__init__()
                self.linear = torch.nn.Linear(2, 2)
                {init}
            def forward(self, batch): {forward}
        """,
        optimize="auto",
    )
    assert model.variant.name == "none"
    assert "OPTIMIZE: the network serves as it is: " in caplog.text and reason in caplog.text
    model.forward(model.collate(model.decode(floats([1, 2]))))  # still runs


def test_a_module_that_caches_what_it_computes_keeps_no_values_of_the_check(serve) -> None:
    model = serve(
        """
        from smartbatch import InputSpec
        class Mine(torch.nn.Module):
            input = InputSpec(("tensor",), "float32", (2,))
            cache = None
            def forward(self, batch):
                if self.cache is None: self.cache = torch.ones(2) * 3
                return batch * self.cache
        """,
        optimize="auto",
    )
    assert listed(run(model, floats([1, 2])).outputs["output"]) == [[3, 6]]


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        ("return self.network(batch[:1]).expand(len(batch), -1)", "first dimension is not the"),
        ("return self.network(batch) + self.network(batch)", "forward calls self.network 2 times"),
        ("return batch", "forward calls self.network 0 times"),
    ],
)
def test_a_forward_that_does_not_call_its_network_once_per_batch_is_told(serve, forward, reason, caplog) -> None:
    caplog.set_level(logging.INFO)
    source = f"{NET}\n    class Mine:\n        input = SPEC\n        def load(self): self.network = Net()\n"
    model = serve(source + f"        def forward(self, batch): {forward}\n", optimize="auto")
    run(model, images(2))
    assert model.variant.name == "none" or reason == "first dimension is not the"
    assert reason in caplog.text


def test_without_an_example_nothing_is_tried_and_the_log_says_so(serve, caplog) -> None:
    caplog.set_level(logging.INFO)
    model = serve("class Mine(torch.nn.Linear):\n    def __init__(self): super().__init__(2, 2)", optimize="auto")
    assert model.variant.name == "none"
    assert "serves as it is: there is no `example`, nor an `input` with shape and dtype" in caplog.text


def test_an_example_of_one_value_shows_nothing(serve, caplog) -> None:
    caplog.set_level(logging.INFO)
    source = """
        from smartbatch import InputSpec
        class Mine(torch.nn.Embedding):
            input = InputSpec(("tensor",), "int64", (5,))
            def __init__(self): super().__init__(9, 2)
    """
    assert serve(source, optimize="auto").variant.name == "none"
    assert "serves as it is: its example is all one value" in caplog.text
    source += "        def example(self): return torch.arange(5)"
    assert serve(source, optimize="auto").variant.name == "eager"


def test_a_class_that_holds_a_module_is_told_how_to_hand_it_over(serve, caplog) -> None:
    caplog.set_level(logging.INFO)
    serve(
        "class Mine:\n    def load(self): self.net = torch.nn.ReLU()\n    def forward(self, batch): return batch",
        optimize="auto",
    )
    assert "runs as it is: it doesn't hand over its network (self.network)" in caplog.text


def test_inputs_of_another_form_run_in_the_eager_network(serve) -> None:
    """A variant was checked for the shape and dtype of the example only."""
    model = serve(NET.replace("(3, 32, 32)", "(3, -1, -1)"), "Net", optimize="auto")
    seen: list[tuple[int, ...]] = []
    model.network._selector = lambda batch: seen.append(tuple(batch.shape)) or model.network.eager(batch)
    for size in (1, 24):
        model.forward(torch.rand(2, 3, size, size))
    assert seen == [(2, 3, 1, 1)]  # that of the example


def test_dtype_converts_a_network_and_its_inputs_and_outputs_are_float32(serve) -> None:
    source = (
        NET
        + """
    class Mine:
        input = SPEC
        def load(self): self.network = Net()
        def forward(self, batch):
            assert batch.dtype == torch.float32
            outputs = self.network(batch)
            assert outputs.dtype == torch.float32 and self.network.layers[0].weight.dtype == torch.bfloat16
            return outputs
    """
    )
    half, full = serve(source, dtype="bfloat16", optimize="auto"), serve(NET, "Net")
    assert half.compute_dtype == "bfloat16"
    outputs = [np.array(listed(run(model, images(3)).outputs["output"])) for model in (half, full)]
    assert 0 < np.abs(outputs[0] - outputs[1]).max() < 0.05


def test_dtype_converts_a_module_with_integer_inputs(serve) -> None:
    model = serve(
        """
        from smartbatch import InputSpec
        class Mine(torch.nn.Module):
            input = InputSpec(("tensor",), "int64", (2,))
            def __init__(self):
                super().__init__()
                self.table = torch.nn.Embedding.from_pretrained(torch.arange(8.).view(4, 2))
            def forward(self, ids): return self.table(ids)
        """,
        dtype="float16",
    )
    ids = np.array([[1, 3]])
    rows = model.decode(floats([0, 0]).__class__("tensor", floats(*ids).content))
    assert model.network._module.table.weight.dtype == torch.float16
    outputs = model.separate(model.forward(torch.tensor(ids)), 1)[0]
    assert outputs.dtype == np.float32 and outputs.tolist() == [[2, 3], [6, 7]] and len(rows) == 1


# --- overlap


def test_a_class_says_itself_whether_its_batches_overlap(serve) -> None:
    assert serve("class Mine:\n    overlaps = True\n    def forward(self, batch): return batch").overlaps
    assert not serve("class Mine:\n    def forward(self, batch): return batch").overlaps
    assert not serve(f"{NET}\n    class Mine(Net):\n        overlaps = False\n", optimize="auto").overlaps


def test_outputs_in_any_container_are_copied_back_while_the_next_batch_runs(serve, monkeypatch) -> None:
    """Where there is no GPU, a copy that is under way is one that must be waited for."""

    class Copy:
        def __init__(self, outputs: torch.Tensor) -> None:
            self.outputs = outputs

        def wait(self) -> np.ndarray:
            return self.outputs.numpy()

    monkeypatch.setattr("smartbatch.worker.core.device.AsyncHostCopy", Copy)
    monkeypatch.setattr("smartbatch.worker.models.row_values.AsyncHostCopy", Copy)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    model = serve(
        "class Mine:\n    overlaps = True\n"
        "    def forward(self, batch): return {'a': batch, 'b': (batch + 1, batch * 2)}"
    )
    outputs = model.forward(torch.ones(2, 1))
    assert isinstance(outputs["a"], Copy) and isinstance(outputs["b"][1], Copy)
    assert model.separate(outputs, 2) == [{"a": [1.0], "b": ([2.0], [2.0])}] * 2


@pytest.mark.parametrize(("kept", "safe"), [("batch.sum(1)", True), ("self.out.copy_(batch.sum(1)[:1])", False)])
def test_a_forward_of_its_own_that_returns_its_buffer_does_not_overlap(serve, kept: str, safe: bool) -> None:
    model = serve(
        f"""
        from smartbatch import InputSpec
        class Mine:
            input = InputSpec(("tensor",), "float32", (2,))
            def load(self): self.network, self.out = torch.nn.Linear(2, 2), torch.zeros(1)
            def forward(self, batch):
                batch = self.network(batch)
                return {kept}
        """
    )
    assert model._keeps_no_outputs() is safe


# --- outputs that break a promise


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ("batch.double()", r"the output 'output' is float64 \[2\] per row; the model announced float32 \[2\]"),
        ("batch[:, :1]", r"the output 'output' is float32 \[1\] per row"),
        ("{'other': batch}", "the output 'output' is missing; the model announced it"),
    ],
)
def test_an_output_of_another_dtype_or_shape_than_announced_is_an_error(serve, returned: str, text: str) -> None:
    source = f"""
        from smartbatch import OutputSpec
        class Mine:
            outputs = (OutputSpec("output", "float32", (2,)),)
            def forward(self, batch): return {returned}
    """
    with pytest.raises(RuntimeError, match=text):
        run(serve(source), floats([1, 2]))
    with pytest.raises(ModelFailed, match=text):
        run(serve(source + "        def encode(self, row): return row"), floats([1, 2]))


def test_an_announced_length_of_any_size_and_values_are_accepted(serve) -> None:
    source = """
        from smartbatch import OutputSpec
        class Mine:
            outputs = (OutputSpec("output", "float32", (-1,)),)
            def forward(self, batch): return batch
    """
    assert listed(run(serve(source), floats([1, 2])).outputs["output"]) == [[1, 2]]
    assert run(serve(source + "        def encode(self, row): return 'text'"), floats([1, 2])).values == ["text"]


def test_a_module_that_changes_or_keeps_its_input_does_not_change_the_rows(serve) -> None:
    """A batch that fails runs again from its rows, so these must be what the client sent."""
    model = serve(
        "class Mine(torch.nn.Module):\n"
        "    def forward(self, batch):\n"
        "        self.kept = batch\n"
        "        return batch.mul_(2)"
    )
    rows = model.decode(floats([1, 2]))
    for _ in range(2):
        assert model.separate(model.forward(model.collate(rows)), 1)[0].tolist() == [2, 4]
