"""Compare: one request, three models side by side, and a live λ between the outer two."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Iterator
from typing import Any

import gradio as gr

from app import cards, checkpoints, text
from app.sessions import FIRST_LAM, Sessions
from app.tree import el, note
from app.web import knob, sheet
from app.words import marked
from backend.errors import DeviceBusy, StudioError
from backend.types import Column, Outcome

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}
SECONDS_BETWEEN_DRAWINGS = 0.15  # a browser needs tens of milliseconds for each and would fall behind the model
SAME = object()  # nothing to draw
NAMES = ("aligned", "fine-tuned", "merged")
LABEL = "Merge: how far towards the fine-tuned model"
KINDS = {"safety": "harmful request", "over_refusal": "harmless look-alike", "helpfulness": "everyday request"}


def build(studio: Any, shell: Any) -> Compare:
    """Build the page inside the open tab."""
    return Compare(studio, shell)


class Compare:
    def __init__(self, studio: Any, shell: Any) -> None:
        self.studio, self.sessions = studio, Sessions()
        found = studio.checkpoints()
        aligned, tuned = checkpoints.starts(found), checkpoints.tunes(found)
        self.examples = gr.State([])
        self.ticket = gr.State(0)
        with gr.Column(elem_classes="s-panel studio-column"):
            with gr.Row():
                self.aligned = gr.Dropdown(
                    aligned,
                    value=next(iter(aligned), None),
                    label="Aligned model (λ = 0)",
                    allow_custom_value=True,
                )
                self.tuned = gr.Dropdown(
                    tuned,
                    value=checkpoints.favourite(tuned),
                    label="Fine-tuned model (λ = 1)",
                    allow_custom_value=True,
                )
            with gr.Row():
                self.prompt = gr.Textbox(
                    label="Request",
                    info="the same for all three; the demo models know only the words of their small world",
                    lines=1,
                    max_lines=4,
                    scale=6,
                    max_length=4000,
                    elem_id="request",
                )
                self.ask = gr.Button(
                    "Ask all three", variant="primary", scale=1, min_width=140, elem_classes="s-bottom"
                )
            self.chips = sheet(elem_id="chips")
        with gr.Column(elem_classes="s-panel studio-column"):
            self.knob = knob(self.walk, self.walk_on, value=self.knob_value("", "", FIRST_LAM), elem_id="knob")
        self.status = sheet(live=True, elem_id="compare-status")
        self.columns = sheet(elem_id="columns")
        self.against = gr.Radio(
            [("no marks", ""), *((f"against the {name} model", name) for name in NAMES[:2])],
            value="", label="Mark changed words of the merge",
        )  # fmt: skip
        self._wire(shell)

    def offered(self, found: checkpoints.Entries) -> dict[Any, list[str]]:
        """What each drop-down of checkpoints has to choose from."""
        return {self.aligned: checkpoints.starts(found), self.tuned: checkpoints.tunes(found)}

    @property
    def outputs(self) -> list[Any]:
        return [self.examples, self.chips, self.prompt, self.knob, self.status, self.columns]

    def _wire(self, shell: Any) -> None:
        asked = [self.ticket, self.aligned, self.tuned, self.prompt, self.against]
        shown = [self.knob, self.status, self.columns]
        device = {**HIDDEN, "trigger_mode": "multiple", "concurrency_id": "device", "concurrency_limit": 1}
        quick = {**HIDDEN, "trigger_mode": "multiple", "queue": False}
        for trigger in (self.ask.click, self.prompt.submit):
            trigger(self.take, None, self.ticket, **quick).then(self.answer, asked, shown, **device)
        self.chips.act(self.pick_example, self.examples, [self.prompt, self.ticket], **quick).then(
            self.answer, asked, shown, **device
        )
        for field in (self.aligned, self.tuned):
            field.change(self.new_pair, asked[1:], shown, **HIDDEN)
        self.against.input(self.mark, asked[1:], shown[::2], **HIDDEN)

    # -- first screen

    def arrive(self, session: str = "", aligned: str = "", tuned: str = "", lam: str = "") -> dict[Any, Any]:
        """Example requests and stored answers, of the pair and at the λ of a link; the device is not touched."""
        linked = {self.aligned: aligned, self.tuned: tuned} if aligned and tuned else {}
        if not linked:
            aligned, tuned = self.aligned.value or "", self.tuned.value or ""
        start = _lam(lam)
        examples = self.find_examples()
        prompt = examples[0][1] if examples else ""
        mine = self.sessions.of(session)
        mine.lam, mine.kept = start, self.stored(aligned, tuned, start, prompt)
        values = [examples, cards.chips(examples), prompt]
        values += [self.knob_value(aligned, tuned, start, prompt, session=session)]
        values += [None, self.show(mine.kept, "") if mine.kept else note(text.ENTER_A_PROMPT)]
        return linked | dict(zip(self.outputs, values, strict=True))

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

    def knob_value(
        self, aligned: str, tuned: str, lam: float, prompt: str = "", against: str = "", session: str = ""
    ) -> dict[str, Any]:
        """The slider, and in `about` what a movement of it asks: the browser sends that back with the new λ."""
        ticks = sorted({p.coefficients["lambda"] for p in self._measured(aligned, tuned) if "lambda" in p.coefficients})
        about = {"session": session, "aligned": aligned, "tuned": tuned, "prompt": prompt, "against": against}
        return {"value": lam, "ticks": ticks, "label": LABEL, "ends": ["aligned", "fine-tuned"], "about": about}

    def _measured(self, aligned: str, tuned: str) -> list[Any]:
        pair = self.studio.lasting_name(aligned), self.studio.lasting_name(tuned)
        runs = [run for run in self.studio.runs() if (run.spec.get("aligned"), run.spec.get("tuned")) == pair]
        found = self.studio.points([run.id for run in runs if run.kind == "sweep"]) if runs else []
        return [point for point in found if point.method == "linear"]  # what the live λ walks along

    # -- handlers

    def warm(self, aligned: str, tuned: str) -> None:
        """Load the pair while the request is being typed; a pair that cannot be found says so when it is asked."""
        with contextlib.suppress(StudioError):
            self.studio.warm(aligned, tuned)

    def take(self, request: gr.Request) -> int:
        return self.sessions.take(request.session_hash or "")

    def pick_example(
        self, examples: list[tuple[str, str]], event: gr.EventData, request: gr.Request
    ) -> tuple[str, int]:
        number = int(event._data["key"])
        return (examples[number][1] if 0 <= number < len(examples) else ""), self.take(request)

    def new_pair(self, aligned: str, tuned: str, prompt: str, against: str, request: gr.Request) -> tuple[Any, ...]:
        """Another pair: older streams stop, stored answers of the pair where there are some."""
        session = request.session_hash or ""
        self.sessions.take(session)
        mine = self.sessions.of(session)
        mine.kept = self.stored(aligned, tuned, mine.lam, prompt)
        shown = self.show(mine.kept, against) if mine.kept else note(text.ENTER_A_PROMPT)
        return self.knob_value(aligned, tuned, mine.lam, prompt, against, session), None, shown

    def mark(self, aligned: str, tuned: str, prompt: str, against: str, request: gr.Request) -> tuple[Any, Any]:
        session = request.session_hash or ""
        mine = self.sessions.of(session)
        shown = self.show(mine.kept, against) if mine.kept.get("texts") else gr.skip()
        prompt = mine.kept["key"][2] if mine.kept.get("key") else prompt
        return self.knob_value(aligned, tuned, mine.lam, prompt, against, session), shown

    def answer(
        self, ticket: int, aligned: str, tuned: str, prompt: str, against: str, request: gr.Request
    ) -> Iterator[tuple[Any, Any, Any]]:
        """Stream all that is not known yet; nothing for an old ticket."""
        session = request.session_hash or ""
        mine = self.sessions.of(session)
        yield self.knob_value(aligned, tuned, mine.lam, prompt, against, session), gr.skip(), gr.skip()
        for status, columns in self.stream(session, ticket, aligned, tuned, mine.lam, prompt, against):
            yield gr.skip(), gr.skip() if status is SAME else status, gr.skip() if columns is SAME else columns

    # -- a walk along λ: the browser calls these directly, for an event of the page costs it half a second

    def walk(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The first words at another λ; the rest comes from `walk_on`. `asked` is the knob's `about` with a λ."""
        session, mine = str(asked["session"]), self.sessions.of(str(asked["session"]))
        mine.lam = min(1.0, max(0.0, float(asked["lam"])))
        fields = [str(asked[name]) for name in ("aligned", "tuned", "prompt", "against")]
        ticket = self.sessions.take(session)
        mine.walk = self.stream(session, ticket, *fields[:2], mine.lam, *fields[2:])
        return self.walk_on({"session": session, "ticket": ticket})

    def walk_on(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What is new since the last call: {"ticket", "draw": {element id: tree}, "more": whether to ask again}."""
        session, ticket = str(asked["session"]), int(asked["ticket"])
        steps = self.sessions.of(session).walk if self.sessions.is_newest(session, ticket) else None
        found = next(steps, None) if steps is not None else None
        if found is None:
            return {"ticket": ticket, "draw": {}, "more": False}
        drawn = zip(("compare-status", "columns"), found, strict=True)
        return {"ticket": ticket, "draw": {name: tree for name, tree in drawn if tree is not SAME}, "more": True}

    def stream(
        self, session: str, ticket: int, aligned: str, tuned: str, lam: float, prompt: str, against: str
    ) -> Iterator[tuple[Any, Any]]:
        """(status, columns) as the words come, `SAME` for no change. The outer columns are asked once per request."""
        if not self.sessions.is_newest(session, ticket):
            return
        if not (prompt or "").strip():
            yield note(text.ENTER_A_PROMPT, "warning"), SAME
            return
        mine = self.sessions.of(session)
        kept = mine.kept
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
            yield note(text.ASKING), self.show(view, "")
        try:
            columns = [Column(aligned, tuned, places[name]) for name in names]
            stream = self.studio.stream(columns, [{"role": "user", "content": prompt}])
            for chunk in stream:
                if not self.sessions.is_newest(session, ticket):
                    return
                name = names[chunk.column]
                view["texts"][name] = chunk.text
                first = chunk.seconds if first is None else first
                if chunk.done and name in view["pending"]:
                    view["pending"].remove(name)
                    if name != "merged":
                        done[name] = chunk.text
                        mine.kept = {"key": key, "texts": {}, "done": done}
                if time.monotonic() - drawn >= SECONDS_BETWEEN_DRAWINGS:
                    yield None, self.show(view, "" if view["pending"] else against)
                    drawn = time.monotonic()
        except DeviceBusy as busy:
            stored = self.stored(aligned, tuned, lam, prompt)
            shown = self.show(stored, against) if stored else note(text.NO_STORED)
            mine.kept = stored
            yield note(text.BUSY.format(reason=str(busy)), "warning"), shown
            return
        except StudioError as error:
            if self.sessions.is_newest(session, ticket):  # else it is our own next request that took the model
                yield note(str(error), "error"), SAME
            return
        finally:
            if stream is not None and hasattr(stream, "close"):
                stream.close()
        if not self.sessions.is_newest(session, ticket):
            return
        view["pending"], mine.kept = [], view
        said = note(text.FIRST_WORDS.format(milliseconds=1000 * first)) if first is not None else None
        yield said, self.show(view, against)

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
                # not by name alone: another answer is folded again
                fold = f"h-{name}-{zlib.crc32(repr((view['key'], view['lam'])).encode())}"
                body = el("details", el("summary", text.HARMFUL_NOTICE), body, cls="harmful", data_fold=fold)
            cls = "s-column live-column" if name == "merged" else "s-column"
            head = el("h4", title, " ", badge or "")
            columns.append(
                el("section", head, el("p", hint, cls="s-quiet") if hint else "", body, cls=cls, data_name=name)
            )
        return el("div", *columns, cls="s-columns")


def _lam(words: str) -> float:
    """The λ of a link; the first one where it is none.

    >>> _lam("0.45"), _lam("7"), _lam("nan"), _lam("")
    (0.45, 0.3, 0.3, 0.3)
    """
    try:
        found = float(words)
    except ValueError:
        return FIRST_LAM
    return found if 0 <= found <= 1 else FIRST_LAM
