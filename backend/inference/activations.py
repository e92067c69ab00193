"""What flows into a model's Linear layers: Gram matrices of their inputs, which say where the weights may move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backend.errors import UserError
from backend.threads import one_thread

MOST_TOKENS = 2048


@one_thread()
def gram_matrices(
    model: Any, chats: Sequence[Sequence[int]], check: Callable[[int], None] = lambda done: None
) -> dict[str, Tensor]:
    """XᵀX of the inputs of each Linear layer but the output head, summed over positions, the mean over `chats`.

    Layers that are fed the same tensor (q, k and v; gate and up) share one matrix in memory. A CPU measures with one
    thread, so that a recipe replays on any number of them.

    Args:
        model: a loaded causal language model.
        chats: token ids, one list a chat; the first 2048 of each are used.
        check: called with the number of finished chats.

    Returns:
        Weight name, as in `model.state_dict()` -> [in, in], fp32, in main memory.

    Raises:
        UserError: inputs that are no numbers.
    """
    head = model.get_output_embeddings()
    grams: dict[str, Tensor] = {}
    leaders: dict[str, str] = {}
    last: list[Any] = [None, ""]  # the tensor that the layer before was fed, and that layer's leader

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            leader = leaders.setdefault(name, last[1] if last[0] is inputs[0] else name)
            last[:] = inputs[0], leader
            if leader == name:
                seen = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
                gram = seen.T @ seen
                grams[name] = grams[name].add_(gram) if name in grams else gram

        return hook

    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers if layer is not head]
    try:
        with torch.inference_mode():
            for done, tokens in enumerate(chats, 1):
                model(input_ids=torch.tensor([list(tokens)[:MOST_TOKENS]], device=model.device), use_cache=False)
                check(done)
    finally:
        for one in hooks:
            one.remove()
    means = {name: (gram / len(chats)).cpu() for name, gram in grams.items()}
    for name, mean in means.items():
        if not bool(torch.isfinite(mean).all()):
            problem = f"`{name}` is fed NaN or infinite numbers on these chats"
            raise UserError("calibration", problem=problem, remedy="Use a checkpoint whose training did not diverge.")
    return {f"{name}.weight": means[leader] for name, leader in leaders.items()}
