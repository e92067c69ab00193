"""How a training is set up, declared once as a signature: the form, the check and the documentation. No torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from backend.errors import UserError
from backend.params import Between, check_parameters, parameters_of

ALL_LINEAR = "all-linear"
SMALL = 50_000_000  # parameters; below it a model needs, and bears, larger steps


def training(
    *,
    steps: Annotated[int, Between(1, 100_000, "steps")] = 300,
    batch: Annotated[int, Between(1, 1024, "rows")] = 16,
    lr: Annotated[float, Between(0, 1, fine=True)] = 0.0,
    warmup: Annotated[float, Between(0, 0.5, "of the steps")] = 0.05,
    clip: Annotated[float, Between(0.01, 1000, "norm")] = 1.0,
    accumulate: Annotated[int, Between(1, 256, "parts")] = 1,
    pool: Annotated[int, Between(1, 64, "batches")] = 1,
    max_len: Annotated[int, Between(16, 131_072, "tokens")] = 512,
    loss_norm: Literal["sample", "token"] = "sample",
    full: bool = False,
    lora_rank: Annotated[int, Between(1, 256)] = 16,
    lora_alpha: Annotated[float, Between(1, 1024)] = 32.0,
    targets: str = "all-linear",
    dtype: Literal["auto", "fp32", "bf16"] = "auto",
    checkpointing: bool = False,
) -> None:
    """Settings that every strategy shares.

    Args:
        steps: how often the weights are changed.
        batch: rows that each step learns from.
        lr: the largest step size of AdamW; 0 chooses by the model's size (0.005 for the demo, 0.0001 for LoRA on large
            models, 0.00002 for all their weights).
        warmup: the share of the steps in which the step size grows from zero.
        clip: the longest gradient that is applied as it is; longer ones are shortened to it.
        accumulate: parts that a batch is split into to save memory; the result stays the same.
        pool: batches that are cut together from rows sorted by length; more wastes less on padding, 1 keeps every batch
            random.
        max_len: rows longer than this are cut, and counted.
        loss_norm: what counts alike in a step; sample every answer, however long, token every token of the answers.
        full: train all weights instead of a small adapter (LoRA).
        lora_rank: how many directions the adapter may change in each layer.
        lora_alpha: how strongly the adapter acts; twice the rank is usual.
        targets: the layers that get an adapter, with commas, or all-linear.
        dtype: the number format of the computation; auto is fp32 on a CPU and the model's own on a GPU.
        checkpointing: compute activations twice instead of storing them, for long rows or large models.
    """


TRAINING = parameters_of(training)


def check_training(given: dict[str, Any], *, parameters: int) -> dict[str, Any]:
    """`given` completed and checked; an lr of 0 becomes the one for a model of so many parameters.

    >>> check_training({"steps": "40"}, parameters=1_400_000)["lr"]
    0.005
    >>> check_training({"batch": 8, "accumulate": 3}, parameters=1)
    Traceback (most recent call last):
    backend.errors.UserError: accumulate: got 3; allowed is a number that divides the batch of 8. The default is 1.
    """
    checked = check_parameters("training", TRAINING, given)
    if checked["batch"] % checked["accumulate"]:
        allowed = f"a number that divides the batch of {checked['batch']}"
        raise UserError("accumulate", got=checked["accumulate"], allowed=allowed, remedy="The default is 1.")
    if not checked["full"] and not layer_names(checked["targets"]):
        raise UserError("targets", problem="no layer is named", remedy="Write all-linear, or q_proj,v_proj.")
    if checked["lr"] == 0:
        small = parameters < SMALL
        checked["lr"] = (1e-3 if small else 2e-5) if checked["full"] else (5e-3 if small else 1e-4)
    if checked["loss_norm"] == "sample":
        del checked["loss_norm"]  # the recipes of runs from before there was a choice stay valid
    return checked


def layer_names(targets: str) -> list[str] | str:
    """`targets` as PEFT takes it.

    Raises:
        UserError: all-linear beside other names.

    >>> layer_names("q_proj, v_proj"), layer_names("All-Linear")
    (['q_proj', 'v_proj'], 'all-linear')
    """
    names = [one.strip() for one in targets.split(",") if one.strip()]
    everything = [one for one in names if one.lower() == ALL_LINEAR]
    if everything and len(names) > 1:
        problem = f"{everything[0]} stands for every linear layer, beside {len(names) - 1} other"
        raise UserError("targets", problem=problem, remedy="Write it alone, or leave it out.")
    return ALL_LINEAR if everything else names


def fits(name: str, module: str) -> bool:
    """Whether a name in `targets` means this module, as PEFT sees it.

    >>> fits("q_proj", "model.layers.0.self_attn.q_proj"), fits("proj", "model.layers.0.self_attn.q_proj")
    (True, False)
    """
    return module == name or module.endswith(f".{name}")
