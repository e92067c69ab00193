"""DualSelect: both sides chosen together, the references by the task step, the task samples by the references."""

from __future__ import annotations

from typing import Annotated, Literal

from backend.params import Between, EveryPreset
from backend.registry import strategy
from backend.tuning.dual import DualSelect
from backend.tuning.rules import Rules, released
from backend.tuning.strategy import Strategy


@strategy(paper="arXiv:2606.09866", needs="references and the start model", cost="about 1.3")
def dualselect(
    *,
    preset: Literal["studio", "released"] = "studio",
    rho: Annotated[float, Between(0, 2), EveryPreset()] = 0.2,
    keep_tokens: Annotated[float, Between(0.5, 1, "of the answer tokens")] = 0.9,
    correction: Literal["safegrad", "add", "agem", "none"] = "safegrad",
    norm_match: bool = True,
    nu: Annotated[float, Between(0, 2)] = 1.0,
    mu_ref: Annotated[float, Between(0, 2)] = 1.0,
    mu_task: Annotated[float, Between(0, 2)] = 0.5,
    standardise: Literal["z", "rank", "off"] = "z",
    tau_ref: Annotated[float, Between(0, 1, "score units")] = 0.0,
    tau_task: Annotated[float, Between(0, 1, "score units")] = 0.0,
    pool: Annotated[int, Between(0, 4096, "rows")] = 0,
    k_ref: Annotated[int, Between(0, 4096, "rows"), EveryPreset()] = 0,
    kind_quota: Annotated[float, Between(0, 1, "of the chosen")] = 0.5,
    ref_loss: Literal["kl", "sft_minus_base", "sft"] = "kl",
    ref_tokens: Annotated[int, Between(0, 4096, "tokens of an answer")] = 5,
    warmup: Annotated[int, Between(-1, 50, "steps"), EveryPreset()] = -1,
    refresh_every: Annotated[int, Between(0, 500, "steps")] = 0,
    turn_cos: Annotated[float, Between(-1, 0.95, "cosine")] = -1.0,
    d_ref_every: Annotated[int, Between(1, 500, "steps")] = 8,
    b_ref: Annotated[int, Between(0, 4096, "rows")] = 0,
    scores: Annotated[Literal["auto", "sample", "gate", "single"], EveryPreset()] = "auto",
    precondition: Literal["off", "adam"] = "off",
    reference_choice: Literal["scored", "random", "static", "mean"] = "scored",
    task_choice: Literal["scored", "random"] = "scored",
) -> Strategy:
    """Learn from the task samples that agree with the references which the task damages most.

    References are chosen by s_j = μ_R z(r_j) − ν z(cos(h_j, d_task)), task samples kept in rising order of
    c_i = μ_T z(l_i) − ν z(cos(g_i, d_ref)) within a token budget; the step is g_task, corrected with d_ref. r, l are
    losses, h, g gradients of single samples. With ρ = 0 and keep_tokens = 1 this is plain fine-tuning, bit for bit.
    Ablations are settings: reference_choice random, static or mean; keep_tokens 1 chooses references only; correction
    none chooses task samples only; task_choice random keeps the token budget alone; nu 0 ranks by loss alone.

    Args:
        preset: studio is this page's own rule; released repeats the published code, where only rho, k_ref, warmup and
            scores still count.
        rho: how hard each step is pulled toward the references; 0 does not touch the step (agem ignores it).
        keep_tokens: how much of the answer text is still learnt from; the least compatible samples go.
        correction: what happens when task and safety disagree; add only pulls, agem only removes the conflict,
            safegrad does both, none does nothing.
        norm_match: the pull is never longer than the task step, so that rho means the same for every model.
        nu: how much it counts whether directions agree.
        mu_ref: how much a reference's loss counts when references are chosen.
        mu_task: how much a sample's loss counts when task samples are kept; large values drop hard samples too.
        standardise: bring losses and cosines to one scale before adding them; off lets the losses rule.
        tau_ref: 0 chooses references sharply, larger weights them more softly.
        tau_task: 0 lets all kept samples count alike, larger prefers the more compatible ones.
        pool: how many references are looked at per refresh; 0 spends a tenth of the training time, but looks at 64
            at least.
        k_ref: how many references protect at a time; 0 takes a tenth of all, at most half of the pool.
        kind_quota: the share of helpful answers among them, so that the model does not learn to refuse everything.
        ref_loss: what forgotten means; kl is any drift from the start model's answers, sft_minus_base a loss above the
            start model's, sft a high loss. Drifts also hold on to how often the start model refuses.
        ref_tokens: how many of the first tokens of a reference's answer count; they decide whether it declines
            (arXiv:2406.05946). 0 takes all.
        warmup: plain steps before protection starts; -1 takes a twentieth of all, at most 10.
        refresh_every: steps until the references are chosen again; 0 takes an epoch, but 25 at least and 100 at most.
        turn_cos: choose again early when the training direction has turned below this cosine; -1 never, since with
            small batches directions are mostly noise and seem to turn all the time.
        d_ref_every: steps after which the references' direction is computed anew.
        b_ref: references drawn for that direction; 0 takes half as many as task rows.
        scores: how single gradients are compared; sample is exact for LoRA, gate for any layers without their length,
            single runs every row by itself.
        precondition: adam compares directions as the optimiser would apply them.
        reference_choice: how references are chosen; random, static (once) and mean (all of them) are for comparison.
        task_choice: how task samples are kept; random keeps the same number of tokens without looking.

    >>> sorted(dualselect().needs), sorted(dualselect(rho=0, keep_tokens=1.0).needs)
    (['references', 'start_model'], [])
    """
    rules = Rules(
        keep_tokens=keep_tokens,
        rho=rho,
        correction=correction,
        norm_match=norm_match,
        nu=nu,
        mu_ref=mu_ref,
        mu_task=mu_task,
        standardise=standardise,
        tau_ref=tau_ref,
        tau_task=tau_task,
        pool=pool,
        k_ref=k_ref,
        kind_quota=kind_quota,
        ref_loss=ref_loss,
        ref_tokens=ref_tokens,
        warmup=warmup,
        refresh_every=refresh_every,
        turn_cos=turn_cos,
        d_ref_every=d_ref_every,
        b_ref=b_ref,
        scores=scores,
        precondition=precondition,
        reference_choice=reference_choice,
        task_choice=task_choice,
    )
    return DualSelect(released(rules) if preset == "released" else rules)
