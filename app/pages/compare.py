"""Compare: one request, three models side by side, and a live λ between the outer two."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from app import cards, text
from app.tickets import Tickets
from app.tree import el, note
from app.web import knob, sheet
from app.words import marked
from backend.errors import DeviceBusy, StudioError
from backend.types import Column, Outcome

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}
SECONDS_BETWEEN_DRAWINGS = 0.15  # a browser needs tens of milliseconds for each and would fall behind the model
NAMES = ("aligned", "fine-tuned", "merged")
KINDS = {"safety": "harmful request", "over_refusal": "harmless look-alike", "helpfulness": "everyday request"}


def build(studio: Any, shell: Any) -> Compare:
    """Build the page inside the open tab."""
    return Compare(studio, shell)


class Compare:
    def __init__(self, studio: Any, shell: Any) -> None:
        self.studio, self.tickets = studio, Tickets()
        found = studio.catalogue()["checkpoints"]
        aligned = sorted(
            (c["name"] for c in found if c.get("role") in ("aligned", "unaligned")), key=lambda n: "unaligned" in n
        )
        tuned = [c["name"] for c in found if c["name"].split("/")[-1] not in ("aligned", "unaligned")]
        favourite = next((name for name in tuned if name.endswith("tool-mixed-sft")), tuned[0] if tuned else None)
        self.examples = gr.State([])
        self.ticket, self.kept = gr.State(0), gr.State({})
        with gr.Column(elem_classes="s-panel studio-column"):
            with gr.Row():
                self.aligned = gr.Dropdown(
                    aligned,
                    value=aligned[0] if aligned else None,
                    label="Aligned model (λ = 0)",
                    allow_custom_value=True,
                )
                self.tuned = gr.Dropdown(
                    tuned, value=favourite, label="Fine-tuned model (λ = 1)", allow_custom_value=True
                )
            with gr.Row():
                self.prompt = gr.Textbox(
                    label="Request", info="the same for all three", lines=1, max_lines=4, scale=6, max_length=4000
                )
                self.ask = gr.Button(
                    "Ask all three", variant="primary", scale=1, min_width=140, elem_classes="s-bottom"
                )
            self.chips = sheet(elem_id="chips")
        with gr.Column(elem_classes="s-panel studio-column"):
            self.knob = knob(
                {"value": 0.3, "ticks": [], "label": "Merge: how far towards the fine-tuned model"}, elem_id="knob"
            )
            self.against = gr.Radio(
                [("no marks", ""), *((f"against the {name} model", name) for name in NAMES[:2])],
                value="", label="Mark changed words of the merge",
            )  # fmt: skip
        self.status = sheet(live=True, elem_id="compare-status")
        self.columns = sheet(elem_id="columns")
        self.lam = gr.State(0.3)
        self._wire(shell)

    @property
    def outputs(self) -> list[Any]:
        return [self.examples, self.chips, self.prompt, self.knob, self.kept, self.status, self.columns]

    def _wire(self, shell: Any) -> None:
        asked = [self.ticket, self.aligned, self.tuned, self.lam, self.prompt, self.against, self.kept]
        shown = [self.kept, self.status, self.columns]
        device = {**HIDDEN, "trigger_mode": "multiple", "concurrency_id": "device", "concurrency_limit": 1}
        quick = {**HIDDEN, "trigger_mode": "multiple", "queue": False}
        self.knob.settle(self.take_lam, None, [self.lam, self.ticket], **quick).then(
            self.answer, asked, shown, **device
        )
        for trigger in (self.ask.click, self.prompt.submit):
            trigger(self.take, None, self.ticket, **quick).then(self.answer, asked, shown, **device)
        self.chips.act(self.pick_example, self.examples, [self.prompt, self.ticket], **quick).then(
            self.answer, asked, shown, **device
        )
        for field in (self.aligned, self.tuned):
            field.change(
                self.new_pair, [self.aligned, self.tuned, self.lam, self.prompt, self.against],
                [self.knob, self.ticket, *shown], **HIDDEN,
            )  # fmt: skip
        self.against.input(self.mark, [self.kept, self.against], self.columns, **HIDDEN)

    # -- first screen

    def arrive(self, aligned: str = "", tuned: str = "") -> dict[Any, Any]:
        """Example requests and stored answers; the device is not touched."""
        aligned, tuned = aligned or self.aligned.value or "", tuned or self.tuned.value or ""
        examples = self.find_examples()
        prompt = examples[0][1] if examples else ""
        kept = self.stored(aligned, tuned, 0.3, prompt)
        values = [examples, cards.chips(examples), prompt, self.knob_value(aligned, tuned, 0.3), kept]
        values += [None, self.show(kept, "") if kept else note(text.ENTER_A_PROMPT)]
        return dict(zip(self.outputs, values, strict=True))

    def find_examples(self) -> list[tuple[str, str]]:
        """(kind, prompt): two of each kind and one of each task, out of the stored results."""
        found: list[tuple[str, str]] = []
        tasks: set[str] = set()
        for run in sorted((r for r in self.studio.runs() if r.stored), key=lambda r: r.spec.get("task") != "tool"):
            task = str(run.spec.get("task", ""))
            points = [] if task in tasks else self.studio.points([run.id])
            if not points:
                continue
            outcomes = self.studio.outcomes(points[0].id)
            if not tasks:
                for axis, kind in KINDS.items():
                    found += [(kind, o.prompt) for o in [o for o in outcomes if o.axis == axis][:2]]
            found += [(text.task(task).lower(), o.prompt) for o in [o for o in outcomes if o.axis == "task"][:1]]
            tasks.add(task)
        return found

    def knob_value(self, aligned: str, tuned: str, lam: float) -> dict[str, Any]:
        ticks = sorted({p.coefficients["lambda"] for p in self._measured(aligned, tuned) if "lambda" in p.coefficients})
        label = "Merge: how far towards the fine-tuned model"
        return {"value": lam, "ticks": ticks, "label": label, "ends": ["aligned", "fine-tuned"]}

    def _measured(self, aligned: str, tuned: str) -> list[Any]:
        runs = [r for r in self.studio.runs() if (r.spec.get("aligned"), r.spec.get("tuned")) == (aligned, tuned)]
        found = self.studio.points([run.id for run in runs if run.kind == "sweep"]) if runs else []
        return [point for point in found if point.method == "linear"]  # what the live λ walks along

    # -- handlers

    def warm(self, aligned: str, tuned: str) -> None:
        """Load the pair while the request is being typed; a pair that cannot be found says so when it is asked."""
        with contextlib.suppress(StudioError):
            self.studio.warm(aligned, tuned)

    def take(self, request: gr.Request) -> int:
        return self.tickets.take(request.session_hash or "")

    def take_lam(self, event: gr.EventData, request: gr.Request) -> tuple[float, int]:
        return min(1.0, max(0.0, float(event._data["value"]))), self.take(request)

    def pick_example(
        self, examples: list[tuple[str, str]], event: gr.EventData, request: gr.Request
    ) -> tuple[str, int]:
        number = int(event._data["key"])
        return (examples[number][1] if 0 <= number < len(examples) else ""), self.take(request)

    def new_pair(
        self, aligned: str, tuned: str, lam: float, prompt: str, against: str, request: gr.Request
    ) -> tuple[Any, ...]:
        """Another pair: older streams stop, stored answers of the pair where there are some."""
        kept = self.stored(aligned, tuned, lam, prompt)
        shown = self.show(kept, against) if kept else note(text.ENTER_A_PROMPT)
        return self.knob_value(aligned, tuned, lam), self.take(request), kept, None, shown

    def mark(self, kept: dict[str, Any], against: str) -> Any:
        return self.show(kept, against) if kept.get("texts") else gr.skip()

    def answer(
        self, ticket: int, aligned: str, tuned: str, lam: float, prompt: str, against: str, kept: dict[str, Any],
        request: gr.Request,
    ) -> Iterator[tuple[Any, Any, Any]]:  # fmt: skip
        """Stream; the outer columns only when the request or the pair is new, and never for an old ticket."""
        yield from self.stream(request.session_hash or "", ticket, aligned, tuned, lam, prompt, against, kept)

    def stream(
        self, session: str, ticket: int, aligned: str, tuned: str, lam: float, prompt: str, against: str,
        kept: dict[str, Any],
    ) -> Iterator[tuple[Any, Any, Any]]:  # fmt: skip
        if not self.tickets.is_newest(session, ticket):
            yield gr.skip(), gr.skip(), gr.skip()
            return
        if not (prompt or "").strip():
            yield gr.skip(), note(text.ENTER_A_PROMPT, "warning"), gr.skip()
            return
        key = [aligned, tuned, prompt]
        done = dict(kept.get("done", {})) if kept.get("key") == key else {}  # outer answers that are complete
        # all three as places on one path: the pair stays resident, and an adapter has its base
        places = {"aligned": 0.0, "fine-tuned": 1.0, "merged": lam}
        names = [name for name in NAMES if name not in done]
        view = {
            "key": key,
            "lam": lam,
            "texts": dict(done),
            "done": done,
            "notes": {},
            "badges": {},
            "pending": names[:],
        }
        first, stream, drawn = None, None, float("-inf")
        if len(names) > 1:
            yield gr.skip(), note(text.ASKING), self.show(view, "")
        try:
            columns = [Column(aligned, tuned, places[name]) for name in names]
            stream = self.studio.stream(columns, [{"role": "user", "content": prompt}])
            for chunk in stream:
                if not self.tickets.is_newest(session, ticket):
                    yield {"key": key, "texts": {}, "done": done}, gr.skip(), gr.skip()
                    return
                name = names[chunk.column]
                view["texts"][name] = chunk.text
                first = chunk.seconds if first is None else first
                if chunk.done and name in view["pending"]:
                    view["pending"].remove(name)
                    done |= {name: chunk.text} if name != "merged" else {}
                if time.monotonic() - drawn >= SECONDS_BETWEEN_DRAWINGS:
                    yield gr.skip(), None, self.show(view, "" if view["pending"] else against)
                    drawn = time.monotonic()
        except DeviceBusy as busy:
            stored = self.stored(aligned, tuned, lam, prompt)
            shown = self.show(stored, against) if stored else note(text.NO_STORED)
            yield stored, note(text.BUSY.format(reason=str(busy)), "warning"), shown
            return
        except StudioError as error:
            yield gr.skip(), note(str(error), "error"), gr.skip()
            return
        finally:
            if stream is not None and hasattr(stream, "close"):
                stream.close()
        view["pending"] = []
        said = note(text.FIRST_WORDS.format(milliseconds=1000 * first)) if first is not None else None
        yield view, said, self.show(view, against)

    # -- what is shown

    def stored(self, aligned: str, tuned: str, lam: float, prompt: str) -> dict[str, Any]:
        """Answers to this prompt out of measured runs of the pair, the merge at the nearest measured λ."""
        points = self._measured(aligned, tuned)
        ends = {p.anchor: p for p in points if p.anchor}
        inner = [p for p in points if "lambda" in p.coefficients]
        if not points or not inner:
            return {}
        near = min(inner, key=lambda p: abs(p.coefficients["lambda"] - lam))
        chosen = {"aligned": ends.get("aligned"), "fine-tuned": ends.get("fine-tuned"), "merged": near}
        view: dict[str, Any] = {
            "texts": {},
            "notes": {},
            "badges": {},
            "lam": near.coefficients["lambda"],
            "pending": [],
        }
        for name, point in chosen.items():
            outcome = self._answered(point.id, prompt) if point is not None else None
            if outcome is not None:
                view["texts"][name] = outcome.answer
                view["notes"][name] = f"stored, run {point.run}"
                view["badges"][name] = [outcome.outcome, cards.badge(outcome)]
        return {**view, "key": [aligned, tuned, prompt]} if view["texts"] else {}

    def _answered(self, point: int, prompt: str) -> Outcome | None:
        return next((one for one in self.studio.outcomes(point) if one.prompt == prompt), None)

    def show(self, view: dict[str, Any], against: str) -> Any:
        """Three columns; a stored harmful answer is folded, a live one is not judged and says so."""
        columns = []
        for name in NAMES:
            words = view["texts"].get(name)
            title = f"merged, λ = {view['lam']:.2f}" if name == "merged" else name
            kind, badge = view["badges"].get(name, ("", None))
            hint = view["notes"].get(name) or ("" if words is None else "live, not judged")
            waiting = name in view["pending"]
            if words is None:
                body = el("p", "…" if waiting else "no stored answer", cls="s-quiet")
            elif name == "merged" and against in view["texts"] and against:
                body = marked(view["texts"][against], words)
            else:
                body = el("p", words, cls="answer caret" if waiting else "answer")
            if kind == "harmful":
                body = el("details", el("summary", text.HARMFUL_NOTICE), body, cls="harmful", data_fold=f"h-{name}")
            cls = "s-column live-column" if name == "merged" else "s-column"
            head = el("h4", title, " ", badge or "")
            columns.append(
                el("section", head, el("p", hint, cls="s-quiet") if hint else "", body, cls=cls, data_name=name)
            )
        return el("div", *columns, cls="s-columns")
