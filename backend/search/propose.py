"""What to try next: Optuna's multi-objective tree-structured Parzen estimator over the settings measured so far.

`propose` keeps nothing: it is told every finished trial and a seed, so a search that was interrupted goes on exactly as
if it had not been, and a longer search begins with the settings of a shorter one.

Ozaki, Tanigaki, Watanabe, Nomura, Onishi, "Multiobjective Tree-Structured Parzen Estimator", doi:10.1613/jair.1.13188.
"""

from __future__ import annotations

from collections.abc import Sequence

from backend.search.space import DIGITS, Setting, Space

Trial = tuple[Setting, tuple[float, float]]
ATTEMPTS = 20


def propose(finished: Sequence[Trial], space: Space, *, seed: int, random_first: int = 0) -> Setting:
    """The next setting to measure: never one that was measured, unless nothing else is found in twenty draws.

    Args:
        finished: settings with every number of `space`, each with (task score, safety), both better when higher.
        space: name -> (low, high).
        seed: equal seeds and trials give equal proposals.
        random_first: how many trials there must be before the model is asked; until then settings are drawn at random.

    >>> space = {"lambda": (0.0, 1.0), "mlp": (0.0, 1.5)}
    >>> trials = [({"lambda": lam, "mlp": 1.0}, (lam, 1 - lam)) for lam in (0.0, 0.5, 1.0)]
    >>> propose(trials, space, seed=1) == propose(trials, space, seed=1)
    True
    """
    import optuna
    from optuna.distributions import FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = {name: FloatDistribution(low, high) for name, (low, high) in space.items()}
    known = {tuple(setting.values()) for setting, _ in finished}
    setting: Setting = {}
    for attempt in range(ATTEMPTS):
        sampler = optuna.samplers.TPESampler(
            seed=(seed * 1_000_003 + len(finished)) * ATTEMPTS + attempt & 0xFFFFFFFF,
            n_startup_trials=random_first,
            multivariate=True,
        )
        study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)
        study.add_trials([
            optuna.trial.create_trial(params=measured, distributions=dict(ranges), values=list(values))
            for measured, values in finished
        ])  # fmt: skip
        drawn = study.ask(fixed_distributions=dict(ranges)).params
        setting = {name: round(float(drawn[name]), DIGITS) for name in space}
        if tuple(setting.values()) not in known:
            break
    return setting
