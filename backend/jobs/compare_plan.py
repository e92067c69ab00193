"""A comparison of strategies, checked and estimated before it is queued. No torch.

Every strategy gets the same data, steps, LoRA and prompts; only the training seed changes. A setting is the strategy's
default, given by hand, or chosen on the validation suites, and the recipe says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from backend.errors import UserError, unknown_name
from backend.evaluation.presets import preset as find_preset
from backend.jobs import planning
from backend.jobs.compare_rule import RULE
from backend.jobs.forecast import SECONDS_PER_POINT
from backend.jobs.grids import parse_grid
from backend.jobs.named_suites import chosen_suites, measured_with, task_suite
from backend.jobs.sources import table_of
from backend.jobs.tune_plan import plan_tune
from backend.params import check_parameters
from backend.registry import strategies
from backend.settings import Settings
from backend.types import Estimate, Plan

STRATEGIES = ("sft", "safety_mix", "lisa", "agem", "safegrad", "constrained_sft", "dualselect")
GRID = "0:1:11"
MOST_SEEDS = 20

# What is chosen on the validation suites, and among which values: as many tries for DualSelect and its two bars. The
# others keep their defaults.
TUNED: dict[str, tuple[str, tuple[float, ...]]] = {
    "safety_mix": ("share", (0.1, 0.2, 0.5, 1.0)),
    "safegrad": ("rho", (0.1, 0.2, 0.5, 1.0)),
    "dualselect": ("rho", (0.05, 0.1, 0.2, 0.5)),  # 1 has never left the task whole
}

# One part of DualSelect replaced each; everything else stays as it is in the comparison.
ABLATIONS: dict[str, dict[str, Any]] = {
    "random_references": {"reference_choice": "random"},
    "static_references": {"reference_choice": "static"},  # chosen once: no refresh
    "mean_references": {"reference_choice": "mean"},
    "refresh_25": {"refresh_every": 25},
    "references_only": {"keep_tokens": 1.0},
    "task_only": {"correction": "none"},
    "correction_add": {"correction": "add"},
    "correction_agem": {"correction": "agem"},
    "random_task": {"task_choice": "random"},
    "losses_only": {"nu": 0.0},
    "directions_only": {"mu_ref": 0.0, "mu_task": 0.0},
    "ref_sft_minus_base": {"ref_loss": "sft_minus_base"},
    "ref_whole_answers": {"ref_tokens": 0},
    "keep_0.75": {"keep_tokens": 0.75},
    "k_ref_8": {"k_ref": 8},
    "k_ref_30": {"k_ref": 30},
    "k_ref_150": {"k_ref": 150, "pool": 300},
    "rho_0.05": {"rho": 0.05},
    "rho_0.1": {"rho": 0.1},
    "rho_0.5": {"rho": 0.5},
    "rho_1": {"rho": 1.0},
}


def plan_compare(settings: Settings, request: Mapping[str, Any]) -> Plan:
    """See `backend.api.Studio.plan`; raises `UserError` naming the field."""
    names, seeds = _names(request.get("strategies")), _seeds(request.get("seeds", 3))
    ablations, tuned, reuse = (_flag(request, field) for field in ("ablations", "tune", "reuse"))
    if ablations and "dualselect" not in names:
        raise UserError("ablations", problem="they are variants of dualselect", remedy="Add it to the strategies.")
    if tuned and "sft" not in names:
        raise UserError("tune", problem="its rule compares with sft", remedy="Add sft to the strategies.")
    by_hand = _by_hand(table_of(request, "settings"), names)
    shared = {key: request[key] for key in ("model", "task_data", "references", "task", "suites") if key in request}
    shared["training"] = table_of(request, "training")
    shared["preset"] = find_preset(str(request.get("preset") or "standard")).name
    arms, plans = [], []
    for name in names:
        plan = plan_tune(settings, {**shared, "strategy": name, "parameters": by_hand.get(name, {})})
        plans.append(plan)
        arms.append(_arm(name, name, {}, by_hand.get(name, {}), plan))
    if ablations:
        base = next(arm for arm in arms if arm["name"] == "dualselect")
        plan = plans[names.index("dualselect")]
        for name, change in ABLATIONS.items():
            checked = check_parameters(
                "dualselect", strategies.get("dualselect").parameters, {**base["given"], **change}
            )
            arms.append({**base, "name": name, "change": change, "parameters": checked})
            plans.append(plan)
    first = next((plan for plan in plans if plan.spec["references"]), plans[0])
    spec = {key: first.spec[key] for key in ("model", "task_data", "task", "preset", "suites", "training")}
    spec |= {"references": first.spec["references"], "seed": 0, "seeds": seeds, "arms": arms, "tune": tuned}
    spec["grid"] = parse_grid(request.get("grid") or GRID) if "sft" in names else []
    spec["trials"] = _trials(settings, spec) if tuned else []
    recipe = {
        "kind": "compare",
        **spec,
        **{key: first.recipe[key] for key in ("model", "task_data", "references", "judges", "scorers", "decoding")},
        "suites": first.recipe["suites"],
        "strategies": {plan.recipe["strategy"]["name"]: plan.recipe["strategy"] for plan in plans},
        **({"validation": _validation(settings, spec), "rule": RULE} if tuned else {}),
    }
    spec["reuse"] = reuse  # not in the recipe: what is taken over was made by the same one
    return Plan("compare", spec, recipe, planning.recipe_hash(recipe), _estimate(plans, spec), first.warnings)


def trial_suites(settings: Settings, spec: Mapping[str, Any]) -> list[str]:
    """The validation twins of the measured suites, as files: nothing is chosen by looking at the suites themselves."""
    names = [*spec["suites"], *([task_suite(spec["task"], spec["suites"])] if spec["task"] else [])]
    if not {"safety", "over_refusal"} <= set(spec["suites"]):
        problem = "the rule for choosing settings reads safety and over-refusal"
        raise UserError("suites", got=", ".join(spec["suites"]), problem=problem, remedy="Add safety and over_refusal.")
    paths = [settings.demo / "suites" / "validation" / f"{name}.jsonl" for name in names]
    missing = [path.stem for path in paths if not path.is_file()]
    if missing or not spec["task"]:
        problem = f"{', '.join(missing) or 'the task'} has no validation suite"
        raise UserError("tune", problem=problem, remedy="Give the settings by hand.")
    return [str(path) for path in paths]


def _validation(settings: Settings, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What settings are chosen on: the prompts of the validation twins."""
    suites = chosen_suites(settings, {**spec, "task": "", "suites": trial_suites(settings, spec)})
    return dict(measured_with(suites, spec)["suites"])


def _trials(settings: Settings, spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Trainings that only choose a setting: plain SFT, then every value of every setting not given by hand."""
    trial_suites(settings, spec)
    found: list[dict[str, Any]] = [{"arm": "sft", "change": {}}]
    for arm in spec["arms"]:
        knob, values = TUNED.get(arm["name"], ("", ()))
        found += [{"arm": arm["name"], "change": {knob: one}} for one in values if knob not in arm["given"]]
    return found


def _arm(name: str, strategy: str, change: dict[str, Any], given: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    parameters = plan.spec["parameters"]
    kept = {key: parameters[key] for key in given}
    return {"name": name, "strategy": strategy, "parameters": parameters, "given": kept, "change": change}


def _names(given: Any) -> list[str]:
    """Strategies in the order asked for, each once.

    >>> _names("sft, dualselect")
    ['sft', 'dualselect']
    """
    if not given:
        return list(STRATEGIES)
    parts = given.split(",") if isinstance(given, str) else given
    names = list(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
    for name in names:
        strategies.get(name)
    return names


def _seeds(given: Any) -> list[int]:
    """So many seeds from 0 on, or the seeds of a list.

    >>> _seeds("3"), _seeds([7, 9])
    ([0, 1, 2], [7, 9])
    """
    listed = list(given) if isinstance(given, list | tuple) else None
    try:
        found = [int(str(one)) for one in listed] if listed is not None else list(range(int(str(given))))
    except ValueError:
        found = []
    if not 1 <= len(found) <= MOST_SEEDS or len(set(found)) < len(found) or min(found) < 0:
        raise UserError("seeds", got=given, allowed=f"1 to {MOST_SEEDS}", remedy="The default is 3.")
    return found


def _by_hand(given: Mapping[str, Any], names: list[str]) -> dict[str, dict[str, Any]]:
    """{"dualselect.rho": 0.5} by strategy.

    >>> _by_hand({"dualselect.rho": "0.5"}, ["dualselect"])
    {'dualselect': {'rho': '0.5'}}
    """
    found: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        name, dot, knob = str(key).partition(".")
        if not dot or not knob:
            raise UserError("settings", got=key, allowed="strategy.name", remedy="For example dualselect.rho=0.5.")
        if name not in names:
            raise unknown_name("settings", name, names)
        found.setdefault(name, {})[knob] = value
    return found


def _flag(request: Mapping[str, Any], field: str) -> bool:
    value = request.get(field) or False
    if not isinstance(value, bool):
        raise UserError(field, got=value, allowed="true or false")
    return value


def _estimate(plans: list[Plan], spec: Mapping[str, Any]) -> Estimate:
    """All trainings one after the other, and each seed's merges as so many measurements."""
    one = plans[0].estimate
    seeds = len(spec["seeds"])
    trainings = sum(plan.estimate.seconds for plan in plans) * seeds + one.seconds * len(spec["trials"])
    merges = SECONDS_PER_POINT * len(spec["grid"]) * seeds
    return replace(one, seconds=trainings + merges, disk=one.disk * (len(plans) * seeds + 1))
