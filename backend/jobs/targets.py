"""Which layers an adapter is put on: the names in `targets`, checked against a checkpoint's tensors. No torch.

PEFT takes a name for every module that is called so or ends in "." and the name. It passes over a name that fits
nothing, and fails, after the model was loaded, at a module that it cannot adapt: both are refused here. A loaded model
may wrap a module otherwise than the files do, so a name as either of them has it is understood for both.
"""

from __future__ import annotations

from collections.abc import Iterable

from backend.checkpoints.names import bare
from backend.checkpoints.tying import find_ends, is_tied
from backend.errors import UserError
from backend.tuning.knobs import fits, layer_names
from backend.types import Checkpoint

MOST_NAMED = 20


def check_targets(targets: str, model: Checkpoint) -> None:
    """Refuse names that no adapter can be put on.

    Args:
        targets: names with commas, or all-linear, as in a training's settings.

    Raises:
        UserError: a name that fits no layer or one without a matrix of weights, or one end of a model whose
            embedding and head are one matrix.
    """
    names = layer_names(targets)
    if isinstance(names, str):
        return
    ends = find_ends(model.tensors)
    edges = {name.removesuffix(".weight") for name in ends} if ends else set()
    weights = dict.fromkeys(edges, 2) | _modules(model)
    meant = {name: modules_named(name, weights) for name in names}
    shared = [name for name, found in meant.items() if edges.intersection(found)]
    if shared and is_tied(model):
        raise shared_layers(shared, model.name)
    missed = [name for name, found in meant.items() if not found or any(weights[one] != 2 for one in found)]
    if missed:
        raise no_such_layers(missed, (module for module, rank in weights.items() if rank == 2 and module not in edges))


def modules_named(name: str, modules: Iterable[str]) -> list[str]:
    """The modules that a name in `targets` means: those that PEFT takes, else the one that is only wrapped otherwise.

    >>> modules_named("up_proj", ["layers.0.mlp.up_proj", "layers.1.mlp.up_proj", "norm"])
    ['layers.0.mlp.up_proj', 'layers.1.mlp.up_proj']
    >>> files = ["language_model.model.layers.0.mlp.up_proj", "vision_tower.encoder.layers.0.mlp.up_proj"]
    >>> modules_named("model.language_model.layers.0.mlp.up_proj", files)
    ['language_model.model.layers.0.mlp.up_proj']
    """
    listed, unwrapped = list(modules), bare(f"{name}.weight")
    found = [module for module in listed if fits(name, module)]
    return found or [module for module in listed if bare(f"{module}.weight") == unwrapped]


def shared_layers(names: list[str], model: str) -> UserError:
    """The refusal of layers whose weights another layer uses too."""
    told = f"{', '.join(names)} of {model} shares its weights with another layer"
    problem = f"{told}, and an adapter on one of them would change both once it is merged"
    return UserError("targets", problem=problem, remedy="Leave it out, or train all weights (full).")


def no_such_layers(names: list[str], modules: Iterable[str]) -> UserError:
    """The refusal of names that are no layers an adapter can be put on; `modules` are some that are.

    >>> str(no_such_layers(["q_prj"], ["layers.0.q_proj", "layers.0.v_proj", "layers.1.q_proj"]))
    'targets: no layer that takes an adapter is called "q_prj"; allowed is all-linear, or names among q_proj, v_proj.'
    """
    told = " or ".join(f'"{name}"' for name in names)
    layers = list(dict.fromkeys(map(_last, modules)))[:MOST_NAMED]
    allowed = f"all-linear, or names among {', '.join(layers)}"
    return UserError("targets", problem=f"no layer that takes an adapter is called {told}", allowed=allowed)


def _modules(model: Checkpoint) -> dict[str, int]:
    """Every module by name, with the dimensions of its weight: 0 for one that has none of its own."""
    found: dict[str, int] = {}
    for name, tensor in model.tensors.items():
        *parents, leaf = name.split(".")
        for depth in range(1, len(parents) + 1):
            found.setdefault(".".join(parents[:depth]), 0)
        if leaf == "weight" and parents:
            found[".".join(parents)] = len(tensor.shape)
    return found


def _last(module: str) -> str:
    """A module's own name, with its parent's where it is only a number.

    >>> _last("model.layers.0.self_attn.q_proj"), _last("mlp.0")
    ('q_proj', 'mlp.0')
    """
    *parents, own = module.split(".")
    return ".".join([*parents[-1:], own]) if own.isdigit() else own
