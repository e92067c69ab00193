"""The page as a whole: header, tabs, one timer, and what goes from page to page. Each page is built in its own file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import cards, text
from app.pages import compare, explore, merge, runs
from app.tree import el
from app.web import address, sheet
from backend.errors import StudioError

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}
UNWATCHED = {"run": None}


@dataclass
class Shell:
    """What all pages share."""

    tabs: gr.Tabs
    address: gr.HTML
    device: gr.HTML
    strip: gr.HTML
    watching: gr.State
    memory: gr.BrowserState
    timer: gr.Timer


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
        )  # fmt: skip
        built = {}
        for name, module in (("explore", explore), ("merge", merge), ("compare", compare), ("runs", runs)):
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
        self.explore, self.merge, self.compare, self.runs = (built[name] for name in text.PAGES)
        for name, tab in places.items():
            tab.select(None, js=f"() => {{ studio.remember({{view: '{name}'}}); }}")
        places["compare"].select(self.compare.warm, [self.compare.aligned, self.compare.tuned], None, **HIDDEN)
        places["runs"].select(self.runs.view, self.runs.chosen, self.runs.outputs, **HIDDEN)
        frame = [shell.device, shell.strip, shell.timer]
        around = [*frame, *self.merge.outputs, *self.runs.outputs]
        everything = [
            shell.tabs, shell.watching, shell.memory, shell.address, *around, self.runs.chosen,
            *self.explore.outputs, *self.compare.outputs, self.merge.inspection, self.merge.estimate,
            *self.merge.errors.values(),
        ]  # fmt: skip
        page.load(self.arrive, [shell.memory, *self.merge.form], everything, **HIDDEN)
        view = [
            shell.watching,
            self.runs.chosen,
            self.explore.runs,
            self.explore.minimum,
            self.explore.selected,
            self.explore.only,
        ]
        shell.timer.tick(
            self.tick, view, [*around, *self.explore.drawing, self.explore.runs], show_progress="hidden",
            concurrency_limit=None, api_visibility="private",
        )  # fmt: skip
        for words in (self.merge.live, self.merge.estimate, self.runs.detail, shell.strip):
            words.act(self.act, [shell.watching, self.runs.chosen, self.explore.minimum], everything, **HIDDEN)
        self.merge.plot.pick(self.open_point, self.explore.minimum, everything, **HIDDEN)

    # -- arriving and re-attaching

    def arrive(self, request: gr.Request, memory: Any, *form: Any) -> dict[Any, Any]:
        return self.open_page(memory, dict(request.query_params), *form)

    def open_page(self, memory: Any, query: dict[str, str], *form: Any) -> dict[Any, Any]:
        """Every page, from the link, then the browser's memory, then what is live now."""
        known = {run.id: run for run in self.studio.runs()}
        live = [run.id for run in known.values() if run.status.is_live]
        remembered = memory.get("run") if isinstance(memory, dict) else None
        watching = remembered if remembered in known else (min(live) if live else None)
        runs, point = numbers(query.get("runs", "")), numbers(query.get("point", ""))
        page = query.get("view", "explore")
        broken = page not in text.PAGES or any(run not in known for run in runs)
        if broken:
            gr.Info("The link names something that is not here; this is the usual view instead.")
        found = self.explore.arrive(runs, point[0] if point else None)
        found |= self.compare.arrive()
        found |= self.around(watching, None)
        found |= self.pair_checked(*form)
        page = page if page in text.PAGES else "explore"
        found |= {self.shell.tabs: gr.update(selected=page), self.shell.address: {"view": page}}
        return found | {self.shell.watching: watching}

    def pair_checked(self, *form: Any) -> dict[Any, Any]:
        inspection, estimate, *slots = self.merge.check(*form)
        return {self.merge.inspection: inspection, self.merge.estimate: estimate} | dict(
            zip(self.merge.errors.values(), slots, strict=True)
        )

    # -- while something is live

    def around(self, watching: int | None, chosen: int | None) -> dict[Any, Any]:
        """Device line, strip, timer, and the pages that show runs."""
        live = [run for run in self.studio.runs() if run.status.is_live]
        shown = next((run for run in live if run.id == watching), live[-1] if live else None)
        merge_live, merge_plot = self.merge.view(watching, self._pair())
        table, detail = self.runs.view(chosen)
        return {
            self.shell.device: cards.header(self.studio.device()),
            self.shell.strip: cards.strip(shown) if shown else None,
            self.shell.timer: gr.update(active=bool(live)),
            self.merge.live: merge_live,
            self.merge.plot: merge_plot,
            self.runs.table: table,
            self.runs.detail: detail,
        }

    def _pair(self) -> tuple[str, str]:
        return self.merge.aligned.value or "", self.merge.tuned.value or ""

    def tick(
        self, watching: int | None, chosen: int | None, drawn: list[int], minimum: float, selected: int | None,
        only: list[int],
    ) -> dict[Any, Any]:  # fmt: skip
        found = self.around(watching, chosen)
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
                link = {"view": "merge"}
                return found | {shell.tabs: gr.update(selected="merge"), shell.watching: run, shell.address: link}
            if name == "cancel":
                self.studio.cancel(run)
                return self.around(watching, chosen)
            if name == "restart":
                self.studio.restart(run)
                return self.around(run, chosen) | {shell.watching: run, shell.memory: {"run": run}}
        except StudioError as error:
            gr.Warning(str(error))
        return {shell.strip: gr.skip()}

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
