"""The page as a whole: header, tabs, one timer, and what goes from page to page. Each page is built in its own file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import cards, checkpoints, run_cards, text
from app.pages import compare, explore, finetune, learn, merge, runs
from app.telemetry import Telemetry
from app.tree import el
from app.web import address, sheet
from backend.errors import StudioError
from backend.types import Run

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}
UNWATCHED = {"run": None}
Order = tuple[str, int]  # how the table of dropped rows is sorted, and how many rows it shows
USUAL: Order = ("step", 20)
LONGEST = 300  # characters of a name in a link


@dataclass
class Shell:
    """What all pages share."""

    tabs: gr.Tabs
    address: gr.HTML
    device: gr.HTML
    strip: gr.HTML
    watching: gr.State
    memory: gr.BrowserState
    timer: gr.Timer  # while something is live
    pulse: gr.Timer  # always: somebody else may have started a run, or written a checkpoint
    offered: gr.State  # the checkpoints that this page has in its drop-downs
    telemetry: Telemetry


def build_app(studio: Any) -> gr.Blocks:
    """The whole page over `studio`, ready to launch."""
    with gr.Blocks(title=text.TITLE, analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_classes="masthead"):
            sheet(el("div", el("h2", text.TITLE, cls="title"), el("p", text.TAGLINE, cls="tagline")), elem_id="brand")
            device, link = sheet(elem_id="device"), address("Copy link", elem_id="address")
        strip = sheet(live=True, elem_id="strip")
        with gr.Tabs(selected="explore") as tabs:
            places = {name: gr.Tab(label, id=name, render_children=True) for name, label in text.PAGES.items()}
        shell = Shell(
            tabs,
            link,
            device, strip, gr.State(None),
            gr.BrowserState(UNWATCHED, storage_key="dualselect-studio", secret="dualselect-studio"),
            gr.Timer(1.0, active=False),
            gr.Timer(5.0),
            gr.State([]),
            Telemetry(studio),
        )  # fmt: skip
        built = {}
        for module in (explore, merge, finetune, compare, runs, learn):
            name = module.__name__.split(".")[-1]
            with places[name]:
                built[name] = module.build(studio, shell)
        Wiring(studio, shell, built, places, page)
    return page


class Wiring:
    """Events that touch more than one page."""

    def __init__(
        self, studio: Any, shell: Shell, built: dict[str, Any], places: dict[str, gr.Tab], page: gr.Blocks
    ) -> None:
        self.studio, self.shell = studio, shell
        self.explore, self.merge, self.finetune = built["explore"], built["merge"], built["finetune"]
        self.compare, self.runs, self.learn = built["compare"], built["runs"], built["learn"]
        for name, tab in places.items():
            tab.select(None, js=f"() => {{ studio.remember({{view: '{name}'}}); }}")
        places["compare"].select(self.compare.warm, [self.compare.aligned, self.compare.tuned], None, **HIDDEN)
        tuned, listed = self.finetune.watched, self.runs.watched
        places["runs"].select(
            self.runs.view, [self.runs.chosen, listed.sort, listed.shown], self.runs.outputs, **HIDDEN
        )
        frame = [shell.device, shell.strip, shell.timer]
        around = [*frame, *self.merge.outputs, *self.finetune.outputs, *self.runs.outputs]
        everything = [
            shell.tabs, shell.watching, shell.memory, shell.address, *around, self.runs.chosen,
            *self.explore.outputs, *self.compare.outputs, self.merge.inspection, self.merge.estimate,
            *self.merge.errors.values(), *self.finetune.checked, self.merge.aligned, self.merge.tuned,
            self.compare.aligned, self.compare.tuned, self.merge.fields.grid, *self.learn.outputs,
        ]  # fmt: skip
        page.load(self.arrive, [shell.memory, *self.merge.form], everything, **HIDDEN)
        page.load(self.finetune.check, self.finetune.form, self.finetune.checked, **HIDDEN)
        view = [
            shell.watching,
            self.runs.chosen,
            self.explore.runs,
            self.explore.minimum,
            self.explore.selected,
            self.explore.only,
            *(tuned.sort, tuned.shown, listed.sort, listed.shown),
        ]
        shell.timer.tick(
            self.tick, view, [*around, *self.explore.drawing, self.explore.runs], show_progress="hidden",
            concurrency_limit=None, api_visibility="private",
        )  # fmt: skip
        choices = [shell.offered, *self.offered([])]
        page.load(self.offer, shell.offered, choices, **HIDDEN)
        shell.pulse.tick(
            self.wake, shell.offered, [shell.timer, *choices], show_progress="hidden", concurrency_limit=None,
            api_visibility="private",
        )  # fmt: skip
        clickable = (self.merge.live, self.merge.estimate, self.finetune.live, self.finetune.estimate)
        for words in (*clickable, self.runs.detail, shell.strip):
            words.act(self.act, [shell.watching, self.runs.chosen, self.explore.minimum], everything, **HIDDEN)
        checked = [self.merge.inspection, self.merge.estimate, *self.merge.errors.values()]
        self.learn.tour.act(self.follow, self.explore.minimum, everything, **HIDDEN).then(
            self.merge.check, self.merge.form, checked, **HIDDEN
        )
        self.merge.plot.pick(self.open_point, self.explore.minimum, everything, **HIDDEN)

    # -- arriving and re-attaching

    def arrive(self, request: gr.Request, memory: Any, *form: Any) -> dict[Any, Any]:
        return self.open_page(memory, dict(request.query_params), *form, session=request.session_hash or "")

    def open_page(self, memory: Any, query: dict[str, str], *form: Any, session: str = "") -> dict[Any, Any]:
        """Every page, from the link, then the browser's memory, then what is live now."""
        known = {run.id: run for run in self.studio.runs()}
        live = [run.id for run in known.values() if run.status.is_live]
        remembered = memory.get("run") if isinstance(memory, dict) else None
        named = next(iter(numbers(query.get("run", ""))), None)
        watching = next((run for run in (named, remembered) if run in known), min(live) if live else None)
        runs, point = numbers(query.get("runs", "")), numbers(query.get("point", ""))
        page = query.get("view", "explore")
        broken = page not in text.PAGES or any(run not in known for run in (*runs, named) if run is not None)
        if broken:
            gr.Info("The link names something that is not here; this is the usual view instead.")
        found = self.explore.arrive(runs, point[0] if point else None)
        pair = [query.get(name, "")[:LONGEST] for name in ("aligned", "tuned", "lam")]
        found |= self.compare.arrive(session, *pair)
        chosen = named if named in known and page == "runs" else None
        found |= self.around(watching, chosen) | {self.runs.chosen: chosen}
        found |= self.pair_checked(*form)
        found[self.learn.tour] = self.learn.view()
        page = page if page in text.PAGES else "explore"
        # Without a link nothing is chosen: whoever was quick is on another page already.
        tabs = gr.update(selected=page) if "view" in query else gr.skip()
        found |= {self.shell.tabs: tabs, self.shell.address: {"view": page}}
        return found | {self.shell.watching: watching}

    def pair_checked(self, *form: Any) -> dict[Any, Any]:
        inspection, estimate, *slots = self.merge.check(*form)
        return {self.merge.inspection: inspection, self.merge.estimate: estimate} | dict(
            zip(self.merge.errors.values(), slots, strict=True)
        )

    # -- while something is live

    def around(
        self, watching: int | None, chosen: int | None, tuned: Order = USUAL, listed: Order = USUAL
    ) -> dict[Any, Any]:
        """Device line, strip, timer, and the pages that show runs."""
        live = [run for run in self.studio.runs() if run.status.is_live]
        shown = next((run for run in live if run.id == watching), live[-1] if live else None)
        merge_live, merge_plot = self.merge.view(watching, self._pair())
        fine = self.finetune.view(watching, *tuned)
        rows = self.runs.view(chosen, *listed)
        return {
            self.shell.device: cards.header(self.studio.device()),
            self.shell.strip: run_cards.strip(shown) if shown else None,
            self.shell.timer: gr.update(active=bool(live)),
            self.merge.live: merge_live,
            self.merge.plot: merge_plot,
            **dict(zip(self.finetune.outputs, fine, strict=True)),
            **dict(zip(self.runs.outputs, rows, strict=True)),
        }

    def _pair(self) -> tuple[str, str]:
        return self.merge.aligned.value or "", self.merge.tuned.value or ""

    def wake(self, offered: list[str]) -> list[Any]:
        """Start the timer when something is live, and offer what was written meanwhile."""
        live = any(run.status.is_live for run in self.studio.runs())
        return [gr.update(active=True) if live else gr.skip(), *self.offer(offered)]

    def offer(self, offered: list[str]) -> list[Any]:
        """The checkpoints as they are now in every drop-down, what is chosen kept; nothing where none is new or gone.

        Asked every few seconds: whoever has a list open would lose their place in it for nothing.
        """
        found = self.studio.checkpoints()
        names, choices = checkpoints.names(found), self.offered(found)
        if names == offered:
            return [gr.skip()] * (1 + len(choices))
        return [names, *(gr.update(choices=one) for one in choices.values())]

    def offered(self, found: checkpoints.Entries) -> dict[Any, list[str]]:
        """Every drop-down of checkpoints with what it offers."""
        return self.merge.fields.offered(found) | self.finetune.offered(found) | self.compare.offered(found)

    def tick(
        self, watching: int | None, chosen: int | None, drawn: list[int], minimum: float, selected: int | None,
        only: list[int], tuned_sort: str = "step", tuned_shown: int = 20, sort: str = "step", shown: int = 20,
    ) -> dict[Any, Any]:  # fmt: skip
        found = self.around(watching, chosen, (tuned_sort, tuned_shown), (sort, shown))
        over = watching is not None and not self.studio.run(watching).status.is_live
        if watching in (drawn or ()):
            found |= dict(zip(self.explore.drawing, self.explore.draw(drawn, minimum, selected, only), strict=True))
        if over and drawn:
            task = str(self.studio.run(drawn[0]).spec.get("task") or "")
            mine = self.explore.by_task().get(task, [])
            found[self.explore.runs] = gr.update(choices=self.explore.run_choices(mine), value=drawn)
        return found

    # -- from page to page

    def act(self, watching: int | None, chosen: int | None, minimum: float, event: gr.EventData) -> dict[Any, Any]:
        return self.do(event._data["name"], int(event._data["key"]), watching, chosen, minimum)

    def do(self, name: str, run: int, watching: int | None, chosen: int | None, minimum: float) -> dict[Any, Any]:
        shell = self.shell
        try:
            if name == "open_run":
                found = self.explore.arrive([run], None, minimum)
                link = {"view": "explore", "runs": str(run), "point": ""}
                return found | {shell.tabs: gr.update(selected="explore"), shell.address: link}
            if name == "watch":
                found = self.around(run, run)
                page = "finetune" if self.studio.run(run).kind == "tune" else "merge"
                link = {"view": page, "run": str(run)}
                return found | {shell.tabs: gr.update(selected=page), shell.watching: run, shell.address: link}
            if name in ("cancel", "pause", "stop_and_keep"):
                getattr(self.studio, name)(run)
                return self.around(watching, chosen)
            if name in ("sweep_tuned", "compare_tuned"):
                return self.carry(self.studio.run(run), "merge" if name == "sweep_tuned" else "compare")
            if name == "restart":
                self.studio.restart(run)
                return self.around(run, chosen) | {shell.watching: run, shell.memory: {"run": run}}
        except StudioError as error:
            gr.Warning(str(error))
        return {shell.strip: gr.skip()}

    def follow(self, minimum: float, event: gr.EventData) -> dict[Any, Any]:
        """A link of the tour: the page it talks about, in the state it talks about."""
        page, run = str(event._data["key"]), self.learn.example()
        opened = {self.shell.tabs: gr.update(selected=page), self.shell.address: {"view": page}}
        if run is None or page not in ("explore", "compare", "merge"):
            return opened
        if page == "explore":
            half = self.learn.halfway()
            link = {"view": page, "runs": str(run.id), "point": str(half.id) if half else ""}
            return (
                opened | self.explore.arrive([run.id], half.id if half else None, minimum) | {self.shell.address: link}
            )
        target = self.compare if page == "compare" else self.merge
        opened |= {target.aligned: run.spec["aligned"], target.tuned: run.spec["tuned"]}
        return opened | ({self.merge.fields.grid: "0:1:5"} if page == "merge" else {})

    def carry(self, run: Run, page: str) -> dict[Any, Any]:
        """A fine-tuned checkpoint and its base, chosen on Merge or Compare; their own listeners do the rest."""
        target = self.merge if page == "merge" else self.compare
        checkpoint = str((run.result or {}).get("checkpoint") or "")
        chosen = {target.aligned: str(run.spec.get("model") or ""), target.tuned: checkpoint}
        return chosen | {self.shell.tabs: gr.update(selected=page), self.shell.address: {"view": page}}

    def open_point(self, minimum: float, event: gr.EventData) -> dict[Any, Any]:
        """A click on the growing plot opens that point in Explore."""
        point = int(event._data["key"])
        try:
            run = self.studio.point(point).run
        except StudioError as error:
            gr.Warning(str(error))
            return {self.shell.strip: gr.skip()}
        link = {"view": "explore", "runs": str(run), "point": str(point)}
        found = self.explore.arrive([run], point, minimum)
        return found | {self.shell.tabs: gr.update(selected="explore"), self.shell.address: link}


def numbers(words: str) -> list[int]:
    """
    >>> numbers("3,4,x,-1")
    [3, 4]
    """
    return [int(part) for part in words.split(",") if part.strip().isdigit()][:50]
