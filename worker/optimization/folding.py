"""Variants that cost nothing to build: channels_last memory order, batch norms folded into convolutions."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from smartbatch.worker.optimization import trees
from smartbatch.worker.optimization.trees import Tree
from smartbatch.worker.optimization.variants import Network


def channels_last(network: nn.Module) -> Network:
    """Return a copy with weights and activations in channels_last, which vector units and tensor cores prefer."""
    copied = weights_channels_last(copy.deepcopy(network))
    return lambda batch: copied(trees.channels_last(batch))


def weights_channels_last(network: nn.Module) -> nn.Module:
    """Change the memory order of the weights in place; return the network."""
    # torch's annotations lack `to` with a memory_format alone
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fold_batch_norms(network: nn.Module, batch: Tree) -> nn.Module:
    """Return a copy in which each convolution includes the batch norm that follows it.

    Pairs are found by running a forward, so subclasses of nn.Conv2d are included. A convolution whose output has other
    consumers is folded wrongly; the comparison with the eager network rejects that variant.
    """
    copied = copy.deepcopy(network)
    for convolution, name in _convolution_norm_pairs(copied, batch).items():
        norm = copied.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        convolution.weight, convolution.bias = weight, bias
        copied.set_submodule(name, nn.Identity())
    return copied


def _convolution_norm_pairs(network: nn.Module, batch: Tree) -> dict[nn.Conv2d, str]:
    """Run the batch. Returns each convolution that ran once and the name of the batch norm that consumed its output."""
    producer: dict[int, nn.Conv2d] = {}  # by id of the output
    kept: list[torch.Tensor] = []  # keeps ids unique
    runs: dict[nn.Module, int] = {}
    pairs: dict[nn.Conv2d, str] = {}

    def after_convolution(module: nn.Module, _: object, output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        producer[id(output)] = module
        kept.append(output)
        runs[module] = runs.get(module, 0) + 1

    def before_norm(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        runs[module] = runs.get(module, 0) + 1
        if inputs and id(inputs[0]) in producer:
            pairs[producer[id(inputs[0])]] = names[module]

    names = {module: name for name, module in network.named_modules()}
    hooks = []
    for module in names:
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {c: name for c, name in pairs.items() if runs[c] == 1 and runs[network.get_submodule(name)] == 1}
