"""Build the micro-world's checkpoints, verify what they must show, or compare all strategies on its mixed sets."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from backend.commands.common import end_line, print_json, print_line, teller
from backend.settings import Settings, calm_threads


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("what", choices=("build", "verify", "compare"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3, help="fine-tuning seeds that verify and compare measure")
    parser.add_argument("--tasks", default="reasoning,medical,code,tool", help="what compare trains; comma list")
    parser.add_argument(
        "--ablations", action="store_true", help="compare DualSelect with one part replaced each instead"
    )
    parser.add_argument("--reuse", action="store_true", help="compare: train only what no earlier comparison trained")
    parser.add_argument("--only", help="build only these fine-tunes again, from the aligned model; comma list of sets")
    parser.add_argument("--out", help="where build writes; default: the studio's own assets")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    calm_threads()
    import torch

    torch.set_num_threads(settings.threads)
    say = teller()
    if options.what == "build":
        from backend.demo.build import build, rebuild
        from backend.demo.results import store_results

        out = Path(options.out).absolute() if options.out else settings.demo
        if options.only:
            names = options.only.split(",")
            report = rebuild(out, names, settings.threads, say)
            store_results(settings, out, say, names)
        else:
            report = build(out, options.seed, settings.threads, say)
            store_results(settings, out, say)
        end_line()
        return print_json(report) if options.json else print_line(f"{out} is built.")
    if options.what == "compare":
        from backend.demo.results import store_comparison

        for task in options.tasks.split(","):
            how = {"ablations": options.ablations, "reuse": options.reuse}
            store_comparison(settings, task.strip(), options.seeds, say, **how)
        end_line()
        return print_line(f"Stored under {settings.demo / 'results'}.")
    from backend.demo.verify import verify

    report = verify(settings, seeds=options.seeds, report=say)
    end_line()
    if options.json:
        print_json(report)
    else:
        for bar in report["bars"]:
            print(f"{'holds' if bar['holds'] else 'FAILS':6} {bar['name']:48} bar {bar['bar']:28} {bar['measured']}")
    return 0 if report["holds"] else 1
