"""A stand-in for CUDA graphs on a CPU: a capture records operations, a replay runs them again on the same memory.

As on a GPU, a capture changes nothing, what a replay reads is what is in memory then, and whatever would make the host
wait for the GPU, or send numbers to it, fails during a capture.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
SYNCS = {
    *(aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.argwhere, aten.masked_select),
    *(aten._unique, aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount, aten.histc),
    *(aten.lift_fresh, aten.scalar_tensor),  # numbers of the host
}


class NoHostSync(TorchDispatchMode):
    """Fails where a GPU would have to wait for the host or the host for it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = args[1] if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) else ()
        if func.overloadpacket in SYNCS or any(index is not None and index.dtype == torch.bool for index in indices):
            raise RuntimeError(f"{func}: the host waits for the device")
        return func(*args, **(kwargs or {}))


class Graph(NoHostSync):
    """What was captured: a list of operations."""

    captures = 0
    replays = 0

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []  # function, arguments, result
        self.before: list[tuple[Tensor, Tensor]] = []  # a tensor that the capture changes, and its numbers before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            self.before.append((args[0], args[0].clone()))
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self.operations.append((func, args, kwargs, result))
        return result

    def restore(self) -> None:
        for tensor, numbers in reversed(self.before):
            tensor.copy_(numbers)

    def replay(self) -> None:
        Graph.replays += 1
        now: dict[int, Any] = {}  # id of a result at the capture -> the result of this replay

        def current(leaf: Any) -> Any:
            return now.get(id(leaf), leaf)

        for func, args, kwargs, result in self.operations:
            again = func(*tree_map(current, args), **tree_map(current, kwargs))
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor):
                    now[id(old)] = new


@contextmanager
def capture(graph: Graph, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
    Graph.captures += 1
    with graph:
        yield
    graph.restore()


def with_cuda_graphs(monkeypatch: pytest.MonkeyPatch) -> type[Graph]:
    """Put the stand-in where torch has CUDA graphs; returns its class, which counts captures and replays."""
    Graph.captures = Graph.replays = 0
    monkeypatch.setattr("torch.cuda.CUDAGraph", Graph)
    monkeypatch.setattr("torch.cuda.graph", capture)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: None)
    monkeypatch.setattr("torch.cuda.current_stream", lambda: None)
    return Graph
