"""Batches and outputs of a network: a tensor, or tensors in dicts, tuples and lists. Their first dimension is the rows.

Other values among them (None, a number, a text) are passed on as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence, Set
from typing import Any

import torch
from torch.utils import _pytree as pytree

Tree = Any


def tensors(tree: Tree) -> list[torch.Tensor]:
    """Return the tensors in a fixed order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def only_tensors(tree: Tree) -> bool:
    return isinstance(tree, torch.Tensor) or len(tensors(tree)) == len(pytree.tree_leaves(tree))


def unknown(tree: Tree) -> list[Any]:
    """Return what is neither a tensor nor a constant, which `form` can't compare."""
    if isinstance(tree, torch.Tensor):
        return []
    constants = torch.Tensor, str, bytes, int, float, type(None), torch.dtype, torch.device
    return [leaf for leaf in pytree.tree_leaves(tree) if not isinstance(leaf, constants)]


def like(tree: Tree, leaves: Sequence[torch.Tensor]) -> Tree:
    """Return these tensors in the structure of a tree of tensors."""
    return leaves[0] if isinstance(tree, torch.Tensor) else pytree.tree_unflatten(leaves, pytree.tree_structure(tree))


def on_tensors(function: Callable[[torch.Tensor], Any], tree: Tree) -> Tree:
    """Return the tree with each tensor replaced by the function of it."""
    if isinstance(tree, torch.Tensor):
        return function(tree)
    return pytree.tree_map_only(torch.Tensor, function, tree)


def map_leaves(function: Callable[[Any], Any], tree: Tree) -> Tree:
    return pytree.tree_map(function, tree)


def rows_of(tree: Tree) -> int:
    return len(tree) if isinstance(tree, torch.Tensor) else len(tensors(tree)[0])


def all_rows(tree: Tree, rows: int) -> bool:
    """Return whether there is a tensor and the first dimension of each is `rows`."""
    found = tensors(tree)
    return bool(found) and all(tensor.dim() and len(tensor) == rows for tensor in found)


def split(tree: Tree, rows: int) -> list[Tree]:
    """Cut a batch into pieces of up to so many rows."""
    return [on_tensors(lambda tensor, at=at: tensor[at : at + rows], tree) for at in range(0, rows_of(tree), rows)]


def concatenate(trees: Sequence[Tree]) -> Tree:
    if isinstance(trees[0], torch.Tensor):
        return torch.cat(list(trees))
    leaves = zip(*(pytree.tree_leaves(tree) for tree in trees), strict=True)
    joined = [torch.cat(parts) if isinstance(parts[0], torch.Tensor) else parts[0] for parts in leaves]
    return like(trees[0], joined)


def channels_last(tree: Tree) -> Tree:
    """Return the tree with images, which are the tensors of four dimensions, in channels_last, others contiguous."""
    return on_tensors(_channels_last, tree)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor.contiguous()


Dimensions = Set[tuple[int, int]]  # which tensor of a batch, in the order of `tensors`, and which of its dimensions


def differing(tree: Tree, other: Tree) -> Dimensions:
    """Return the dimensions, besides the rows, in which the tensors of two batches of one structure differ."""
    return {
        (number, dimension)
        for number, (one, two) in enumerate(zip(tensors(tree), tensors(other), strict=True))
        for dimension, (length, other_length) in enumerate(zip(one.shape, two.shape, strict=True))
        if dimension and length != other_length
    }


def form(tree: Tree, varying: Dimensions = frozenset()) -> Hashable:
    """Return all about a batch but its values and the number of its rows; equal for batches that one variant fits.

    Lengths of 2 and more are alike in `varying` dimensions: compiled code may treat shorter ones as constants.
    """
    if isinstance(tree, torch.Tensor):
        return _form_of(tree, 0, varying)
    leaves, structure = pytree.tree_flatten(tree)
    number = itertools.count()
    return structure, tuple(
        _form_of(leaf, next(number), varying) if isinstance(leaf, torch.Tensor) else repr(leaf) for leaf in leaves
    )


def _form_of(tensor: torch.Tensor, number: int, varying: Dimensions) -> Hashable:
    lengths = tuple(tensor.shape[1:])
    if varying:
        lengths = tuple(
            -1 if length > 1 and (number, dimension) in varying else length
            for dimension, length in enumerate(lengths, 1)
        )
    return tensor.dtype, lengths, tensor.device
