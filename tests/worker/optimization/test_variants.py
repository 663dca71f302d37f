"""OPTIMIZE: the serving variant is correct first and fast second; variants that fail are skipped and logged."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from smartbatch.worker.models import LoadContext, resolve
from smartbatch.worker.optimization.folding import channels_last, fold_batch_norms
from smartbatch.worker.optimization.variants import Network, VariantSelector


class OwnConv(nn.Conv2d):
    """A subclass of Conv2d, as many published networks have."""


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), OwnConv(8, 4, 3, bias=False))
        self.norm = nn.BatchNorm2d(4)
        self.loose = nn.BatchNorm2d(3)  # follows no convolution

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.norm(self.blocks(self.loose(batch))).mean((2, 3))


def compute_for(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


class Slow(nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        compute_for(0.01)
        return batch * 2


@pytest.fixture
def small() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = Small().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                nn.init.normal_(module.weight)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


def example(rows: int) -> torch.Tensor:
    return torch.randn((rows, 3, 16, 16), generator=torch.Generator().manual_seed(0))


def smaller(rows: int) -> torch.Tensor:
    return example(rows)[:, :, :8]


def considered(make, *, eager: nn.Module | None = None) -> VariantSelector:
    selector = VariantSelector(eager or Slow(), example, 4, smaller)
    for _ in selector.consider("other", make):
        pass
    return selector


def double(batch: torch.Tensor) -> torch.Tensor:
    return batch * 2


def test_the_fastest_variant_with_equal_outputs_serves() -> None:
    selector = considered(lambda: double)
    assert selector.choice.name == "other"
    assert selector.choice.gain > 5
    assert selector.choice.error == 0.0
    assert selector(torch.ones(1)).item() == 2


def wrong(batch: torch.Tensor) -> torch.Tensor:
    return batch * 2.001


def not_a_number(batch: torch.Tensor) -> torch.Tensor:
    return batch * float("nan")


def other_shape(batch: torch.Tensor) -> torch.Tensor:
    return batch[:, :2] * 2


def wrong_for_several_rows(batch: torch.Tensor) -> torch.Tensor:
    return batch * (2 if len(batch) == 1 else 3)


def wrong_for_smaller_rows(batch: torch.Tensor) -> torch.Tensor:
    return batch * (2 if batch.shape[2] == 16 else 3)


def raises(batch: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("unlucky")


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (wrong, "deviate by 5.0e-04 of the largest, the tolerance is 1e-04"),
        (not_a_number, "deviate by nan"),
        (other_shape, "outputs of shape [1, 2, 16, 16] instead of [1, 3, 16, 16]"),
        (wrong_for_several_rows, "deviate by 5.0e-01"),
        (wrong_for_smaller_rows, "deviate by 5.0e-01"),
        (raises, "unlucky"),
    ],
)
def test_a_variant_with_other_outputs_is_skipped_and_logged(network: Network, why: str, caplog) -> None:
    selector = considered(lambda: network)
    assert selector.choice.name == "eager"
    assert selector(torch.ones(1)).item() == 2
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "OPTIMIZE: other is skipped" in record.message and why in record.message


def test_a_variant_that_can_not_be_built_is_skipped_and_logged(caplog) -> None:
    def make() -> Network:
        raise OSError("no compiler")

    assert considered(make).choice.name == "eager"
    assert "other is skipped: no compiler" in caplog.text


def test_a_variant_that_is_no_faster_does_not_serve() -> None:
    def slower(batch: torch.Tensor) -> torch.Tensor:
        compute_for(0.05)
        return batch * 2

    assert considered(lambda: slower).choice.name == "eager"


def test_half_precision_has_its_own_tolerance() -> None:
    half = VariantSelector(Slow(), lambda rows: example(rows).bfloat16(), 4)
    for _ in half.consider("other", lambda: lambda batch: batch * 2.03):
        pass
    assert half.choice.name == "other"


def test_variants_are_skipped_if_eager_outputs_are_not_finite(caplog) -> None:
    class Overflows(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch / 0

    assert considered(lambda: double, eager=Overflows()).choice.name == "eager"
    assert "the eager network's outputs aren't finite" in caplog.text


class Brittle:
    """Doubles, until it is set to raise."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        if self.error:
            raise self.error
        return batch * 2


def test_a_variant_that_raises_is_replaced_by_eager(caplog) -> None:
    brittle = Brittle()
    selector = considered(lambda: brittle)
    assert selector.choice.name == "other"
    brittle.error = RuntimeError("assertion in the compiled code")
    assert selector(torch.ones(1)).item() == 2
    assert selector.choice.name == "eager"
    brittle.error = None
    brittle.__class__ = type("Wrong", (Brittle,), {"__call__": lambda self, batch: batch * 3})
    assert selector(torch.ones(1)).item() == 2  # permanently
    assert "assertion in the compiled code" in caplog.text


def test_a_variant_passes_out_of_memory_on_to_the_engine() -> None:
    brittle = Brittle()
    selector = considered(lambda: brittle)
    brittle.error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        selector(torch.ones(1))
    assert selector.choice.name == "other"


def test_a_batch_that_fails_in_eager_too_keeps_the_variant() -> None:
    class Picky(Slow):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            if batch.sum() < -1e6:
                raise ValueError("too negative")
            return super().forward(batch)

    brittle = Brittle()
    selector = considered(lambda: brittle, eager=Picky())
    brittle.error = RuntimeError("unlucky")
    with pytest.raises(ValueError, match="too negative"):
        selector(torch.full((1,), -1e7))
    assert selector.choice.name == "other"


@torch.inference_mode()
def test_batch_norms_are_folded_into_any_kind_of_convolution(small: nn.Module) -> None:
    before = small(example(2))
    folded = fold_batch_norms(small, example(1))
    assert [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)] == ["loose"]
    assert (folded(example(2)) - before).abs().max() < 1e-5
    assert torch.equal(small(example(2)), before)  # the original network is unchanged
    assert (channels_last(folded)(example(2)) - before).abs().max() < 1e-5


def test_a_wrongly_folded_convolution_is_detected(small: nn.Module, caplog) -> None:
    class Branching(Small):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            convolved = self.blocks(self.loose(batch))
            return (self.norm(convolved) + convolved).mean((2, 3))

    branching = Branching().eval()
    branching.load_state_dict(small.state_dict())
    selector = considered(lambda: fold_batch_norms(branching, example(1)), eager=branching)
    assert selector.choice.name == "eager"
    assert "deviate by" in caplog.text


@pytest.mark.parametrize(("name", "weights"), [("resnet18", "random"), ("efficientnet_lite0", "default")])
def test_an_optimized_classifier_keeps_its_outputs(name: str, weights: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # compiled libraries go there
    outputs = []
    for optimize in ("none", "auto"):
        model = resolve(name)
        model.load(LoadContext("cpu", weights=weights, torch_threads=1, optimize=optimize))
        noise = torch.randn((3, 3, 224, 224), generator=torch.Generator().manual_seed(5))
        outputs.append(model.forward(model.collate(list(noise))))
        allowed = ("none",) if optimize == "none" else ("eager", "channels_last", "folded channels_last", "winograd")
        assert model.variant.name in allowed
    assert (outputs[1] - outputs[0]).abs().max() / outputs[0].abs().max() < 1e-4
