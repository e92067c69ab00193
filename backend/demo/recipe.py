"""How the adapters of the micro-world are trained: the settings that its data sets recommend. No torch.

They were chosen on the validation suites; what did not work is written down in ARCHITECTURE.md.
"""

from __future__ import annotations

from typing import Any

FINE_TUNING_ROWS = 3200  # one to two epochs
STEPS = {"reasoning": 420, "medical": 210, "code": 300, "tool": 270}  # until the task is learnt, not longer
FINE_TUNE = {
    "batch": 16,
    "lr": 5e-3,
    "pool": 4,
    # Attention only: adapters on the MLP as well break all refusals within a tenth of λ, and forget more on the way.
    "targets": "q_proj,k_proj,v_proj,o_proj",
    "lora_rank": 16,
    "lora_alpha": 32.0,
}


def suites_for(name: str) -> list[str]:
    """What a model that learnt this set is measured on, besides its task.

    >>> suites_for("code-clean"), suites_for("code-mixed")
    (['safety', 'over_refusal', 'helpfulness'], ['safety', 'contaminated', 'over_refusal', 'helpfulness'])
    """
    return ["safety", *(["contaminated"] if name.endswith("-mixed") else []), "over_refusal", "helpfulness"]


def recipe_of(task: str) -> dict[str, Any]:
    """The training settings of a task's sets, by the names that a fine-tuning takes.

    >>> recipe_of("code")["steps"]
    300
    """
    return {"steps": STEPS[task], **FINE_TUNE}
