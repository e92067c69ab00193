"""Exact per-sample numbers from one backward pass: <g_i, d>, |g_i|², and Σ p_i g_i. No running one sample at a time.

- `PerSample` (the `sample` scorer): every trained linear layer computes g_i = Σ_t e_t x_tᵀ for each sample instead of
  their sum, and hands it to a `Collector`.
- `gates` (the `gate` scorer): every trained layer adds α_i·f_D(x), α = 0, f_D the layer with the direction as weights;
  then dl_i/dα_i = <g_i, d>. Any attention kernel, padding and gradient checkpointing; no norms.

Both look only at layers, so they know no architecture. Dropout must be off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from backend.errors import RunFailed
from backend.tuning.scores import wide

Gradient = list[Tensor]  # one tensor per trained parameter, in the order of `trained_parameters`


class Scores(NamedTuple):
    """Per sample: loss, <g_i, d>, and |g_i| where the scorer knows it. All fp32 on the CPU."""

    losses: Tensor
    dots: Tensor
    norms: Tensor | None


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What the optimiser changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class Layer(NamedTuple):
    """A module that owns trained parameters; `places` are their indices among all trained ones, by name."""

    module: nn.Module
    places: dict[str, int]


def trained_layers(model: nn.Module) -> list[Layer]:
    """Every module with trained parameters of its own. Tied weights belong to each module that uses them."""
    order = {id(parameter): place for place, parameter in enumerate(trained_parameters(model))}
    found = []
    for module in model.modules():
        own = {name: order[id(one)] for name, one in module._parameters.items() if one is not None and id(one) in order}
        if own:
            found.append(Layer(module, own))
    return found


def can_sample(model: nn.Module) -> bool:
    """Whether all that is trained are weights of linear layers, each used in one place: LoRA, in short."""
    layers = trained_layers(model)
    places = [place for layer in layers for place in layer.places.values()]
    return len(places) == len(set(places)) and all(
        isinstance(layer.module, nn.Linear) and set(layer.places) == {"weight"} for layer in layers
    )


def can_gate(model: nn.Module) -> bool:
    """Whether every trained layer is linear in its parameters."""
    return all(_is_linear_in_parameters(layer.module) for layer in trained_layers(model))


def _is_linear_in_parameters(module: nn.Module) -> bool:
    kind = type(module).__name__
    return isinstance(module, nn.Linear | nn.Embedding) or kind.endswith("Norm") or kind == "Conv1D"


# ------------------------------------------------------------------------------------------------ sample

NOTHING = "No layer handed in a gradient. Choose scores = single for this model."


class Collector:
    """Sums up what the layers hand in: dots and squared lengths, layer by layer.

    Args:
        direction: d, or None where only lengths are wanted.
        metric: a diagonal that both are taken in, as AdamW would apply gradients; None for the plain product.
    """

    def __init__(self, direction: Gradient | None, *, metric: Gradient | None = None) -> None:
        self._direction = direction
        self._metric = metric
        self._dots: Tensor | None = None
        self._lengths: list[Tensor] = []  # a layer's part each: adding all up once is cheaper

    def add(self, place: int, gradients: Tensor) -> None:
        """Take in one layer's gradients, [samples, outputs, inputs]."""
        flat = wide(gradients.flatten(1))
        weighted = flat if self._metric is None else flat * self._metric[place].flatten()
        lengths = torch.linalg.vector_norm(flat, dim=1).square() if weighted is flat else (flat * weighted).sum(1)
        self._lengths.append(lengths)
        if self._direction is not None:
            along = self._direction[place].flatten()
            self._dots = weighted @ along if self._dots is None else self._dots.addmv_(weighted, along)

    def scores(self, losses: Tensor) -> Scores:
        """What was collected, beside the losses it belongs to."""
        if not self._lengths:
            raise RunFailed(NOTHING)
        squares = torch.stack(self._lengths).sum(0)
        dots = torch.zeros_like(squares) if self._dots is None else self._dots
        return Scores(wide(losses.detach()).cpu(), dots.cpu(), squares.clamp(min=0).sqrt().cpu())


class Keeper:
    """Keeps all that the layers hand in, and looks at it once at the end.

    A few operations over all of it: many small ones would each wake the other threads.

    Args:
        direction: d, a tensor for every trained parameter.
        metric: as in `Collector`.
    """

    def __init__(self, direction: Gradient, *, metric: Gradient | None = None) -> None:
        self._direction = direction
        self._metric = metric
        self._parts: dict[int, Tensor] = {}
        self.flat: Tensor | None = None  # [samples, numbers of all trained parameters in their order], fp32 at least

    def add(self, place: int, gradients: Tensor) -> None:
        """Take in one layer's gradients, [samples, outputs, inputs]."""
        flat = gradients.flatten(1)
        self._parts[place] = self._parts[place] + flat if place in self._parts else flat

    def scores(self, losses: Tensor) -> Scores:
        """What was collected, beside the losses it belongs to."""
        if not self._parts:
            raise RunFailed(NOTHING)
        some = next(iter(self._parts.values()))
        parts = [
            self._parts[place] if place in self._parts else some.new_zeros(len(some), one.numel())
            for place, one in enumerate(self._direction)
        ]
        self._parts = {}
        self.flat = wide(torch.cat(parts, 1))
        del parts  # a copy of all of them is there now
        weighted = self.flat if self._metric is None else self.flat * _laid_flat(self._metric)
        whole = weighted is self.flat
        squares = torch.linalg.vector_norm(self.flat, dim=1).square() if whole else (self.flat * weighted).sum(1)
        dots = weighted @ _laid_flat(self._direction).to(weighted.dtype)
        return Scores(wide(losses.detach()).cpu(), dots.cpu(), squares.clamp(min=0).sqrt().cpu())


def _laid_flat(gradient: Gradient) -> Tensor:
    return torch.cat([one.reshape(-1) for one in gradient])


class PerSample(torch.autograd.Function):
    """x Wᵀ, whose backward pass leaves one weight gradient per sample with a collector, and none with the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, collector: Collector | Keeper, place: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.collector, ctx.place = collector, place
        return functional.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (output,) = grads
        x, weight = ctx.saved_tensors
        ctx.collector.add(ctx.place, torch.bmm(output.transpose(1, 2), x))
        return (output @ weight if ctx.needs_input_grad[0] else None), None, None, None


@contextmanager
def per_sample(layers: Sequence[Layer], collector: Collector | Keeper) -> Iterator[None]:
    """Within, the backward passes of these trained linear layers feed `collector` and no weight's gradient."""

    def replaced(module: nn.Linear, place: int) -> Any:
        def forward(x: Tensor) -> Tensor:
            if x.dim() != 3:
                raise RunFailed("A trained layer mixes samples. Choose scores = single for this model.")
            result: Tensor = PerSample.apply(x, module.weight, collector, place)  # type: ignore[no-untyped-call]
            return result

        return forward

    try:
        for module, places in layers:
            assert isinstance(module, nn.Linear)
            module.forward = replaced(module, places["weight"])  # type: ignore[method-assign]
        yield
    finally:
        for module, _ in layers:
            module.__dict__.pop("forward", None)


# ------------------------------------------------------------------------------------------------ gate


@contextmanager
def gates(layers: Sequence[Layer], direction: Gradient, alpha: Tensor) -> Iterator[None]:
    """Within, each of these trained layers adds α_i·f_D(x) to its output for sample i.

    Args:
        direction: d, fp32.
        alpha: [samples], zeros that ask for a gradient, on the model's device.
    """
    with ExitStack() as stack:
        for layer in layers:
            handle = layer.module.register_forward_hook(_gate(layer, direction, alpha), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _gate(layer: Layer, direction: Gradient, alpha: Tensor) -> Any:
    busy = False

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        nonlocal busy
        if busy:
            return None
        busy = True
        try:
            with torch.no_grad():
                along = _along(module, {name: direction[place] for name, place in layer.places.items()}, args, kwargs)
        finally:
            busy = False
        gate = alpha.view(-1, *[1] * (output.dim() - 1))
        return output + (gate * wide(along)).to(output.dtype)

    return hook


def _along(module: nn.Module, given: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """f_D(x): the module's output with the direction in place of its trained parameters, less that with zeros."""
    own = {name: one for name, one in module._parameters.items() if one is not None}
    like = {name: given[name].to(own[name].dtype) for name in given}
    if type(module) is nn.Linear:
        return functional.linear(args[0], like.get("weight", torch.zeros_like(own["weight"])), like.get("bias"))
    if type(module) is nn.Embedding:
        return functional.embedding(args[0], like["weight"])
    nothing = {name: torch.zeros_like(one) for name, one in like.items()}
    moved: Tensor = torch.func.functional_call(module, like, args, kwargs)
    still: Tensor = torch.func.functional_call(module, nothing, args, kwargs)
    return moved - still
