"""The methods that mergekit and the studio both have, and what it calls their settings."""

from __future__ import annotations

ARITHMETIC = ("task_arithmetic", "ties", "dare_linear", "dare_ties", "della_linear", "della", "breadcrumbs")
FAMILY = (*ARITHMETIC, "breadcrumbs_ties")
NORMALIZED = ("ties", "della")
RANDOM = RESCALED = ("dare_linear", "dare_ties", "della_linear", "della")
# Settings of the whole merge by method, ours under mergekit's name.
PLAIN = {
    "model_stock": {"filter_wise": "filter_wise"},
    "sce": {"select_topk": "select_topk"},
    "nearswap": {"t": "t"},
    "karcher": {"max_iter": "max_iter", "tol": "tol"},
    "arcee_fusion": {},
    "passthrough": {"scale": "scale"},
}
SHARED = (*FAMILY, "linear", "slerp", "nuslerp", "multislerp", *PLAIN)
FIELD = "from-mergekit"
