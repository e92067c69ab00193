"""The Finetune page's handlers over the scripted studio: form, states, what goes on to Merge, Compare and Runs."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from app import tuning_text as words
from app import uploads
from app.telemetry import Telemetry
from backend.errors import UserError
from backend.tuning.tables import ENDINGS
from backend.types import RunStatus
from tests.fake_studio import NASTY, FakeStudio
from tests.test_app_pages import Page, event
from tests.test_app_pure import everything


class Tuning(Page):
    """The page with its Finetune form as a dictionary of values."""

    def filled(self, **changes: Any) -> list[Any]:
        fields = ["model", "task_data", "references", "own_task", "own_references", "strategy", "task", "probe_every"]
        fields += ["seed", "out", "how_many", "suites", "own_suites", *(one["name"] for one in self.finetune.training)]
        fields += [one["name"] for one in self.finetune.settings.parameters]
        values = dict(zip(fields, [getattr(part, "value", None) for part in self.finetune.form], strict=True))
        unknown = set(changes) - set(values)
        assert not unknown
        return list({**values, **changes}.values())

    def errors(self, slots: list[Any]) -> dict[str, str]:
        return {field: everything(slot) for field, slot in zip(self.finetune.errors, slots, strict=True) if slot}

    def begin(self, **changes: Any) -> int:
        started = self.finetune.begin(*self.filled(**changes))
        assert started[-3] == {"run": started[-4]}
        return started[-4]

    def seen(self, run: int | None) -> dict[str, Any]:
        names = ["live", "run", "vitals", "curves", "result", "references", "dropped"]
        return dict(zip(names, self.finetune.view(run), strict=True))


@pytest.fixture
def page() -> Tuning:
    return Tuning()


def test_before_the_first_run_the_page_says_what_will_be_seen(page: Tuning) -> None:
    seen = page.seen(None)
    assert "No fine-tuning yet" in everything(seen["live"])
    assert seen["curves"] is None


def test_a_good_form_shows_what_it_will_take_and_every_setting(page: Tuning) -> None:
    estimate, task_data, references, *slots = page.finetune.check(*page.filled())
    assert "About 12 s" in everything(estimate)
    assert "keep tokens0.9" in everything(estimate)
    assert re.search(r"\d+ steps of \d+ rows each", everything(estimate))
    assert "600 rows" in everything(task_data)
    assert "300 rows" in everything(references)
    assert not any(slots)


def test_only_what_a_person_changed_is_sent(page: Tuning) -> None:
    spec = page.finetune.spec(*page.filled(rho=0.5, steps=80))
    assert (spec["parameters"], spec["training"]) == ({"rho": 0.5}, {"steps": 80})


def test_a_model_that_is_not_the_demos_is_measured_on_plain_prompts_unless_a_person_chose(page: Tuning) -> None:
    plain = "plain_safety, plain_over_refusal, plain_helpfulness"

    def suites(**changes: Any) -> Any:
        return page.finetune.spec(*page.filled(**changes)).get("suites")

    assert suites() is None
    assert suites(model="org/model") == plain
    assert suites(suites="plain") == plain
    assert suites(model="org/model", suites="micro-world") is None
    assert suites(suites="own", own_suites="plain_safety, mine.jsonl") == "plain_safety, mine.jsonl"
    assert suites(model="org/model", suites="own", own_suites=" ") == plain


def test_references_are_suggested_for_demo_data_and_sent_only_where_they_are_read(page: Tuning) -> None:
    suggest = page.finetune.data.suggest
    assert page.finetune.data.sets["references"].value == "demo/references"
    assert suggest("mine.jsonl", None, "demo/references")["value"] is None
    assert suggest("demo/tool-mixed", "/upload/mine.jsonl", "demo/references")["value"] is None
    assert suggest("demo/tool-clean", None, None)["value"] == "demo/references"
    assert "value" not in suggest("mine.jsonl", None, "good.jsonl")
    assert page.finetune.spec(*page.filled())["references"] == "demo/references"
    assert "references" not in page.finetune.spec(*page.filled(strategy="sft"))
    assert [page.finetune.show_references(name)["visible"] for name in ("sft", "dualselect")] == [False, True]


def test_the_released_preset_sends_what_still_counts_and_hides_the_rest(page: Tuning) -> None:
    given = page.finetune.spec(*page.filled(preset="released", rho=0.5, keep_tokens=0.7))["parameters"]
    assert given == {"preset": "released", "rho": 0.5}
    values = page.filled(preset="released")[-len(page.finetune.values) :]
    about, more, *shown = page.finetune.show_settings("dualselect", *values)
    assert words.PRESET_SETS in about["info"]
    assert not more["visible"]
    assert sum(one["visible"] for one in shown) == 2


def test_a_strategy_shows_its_own_settings_and_siblings_share_them(page: Tuning) -> None:
    assert len(page.finetune.values) == 9
    values = page.filled()[-len(page.finetune.values) :]
    _, more, *shown = page.finetune.show_settings("sft", *values)
    assert not more["visible"]
    assert not any(one["visible"] for one in shown)
    _, more, *shown = page.finetune.show_settings("random_reference", *values)
    assert more["visible"]
    assert sum(one["visible"] for one in shown) == 8
    assert "arXiv:2606.09866" in page.finetune.strategy.info


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": "nowhere"}, "model"),
        ({"task_data": "demo/tool-mixd"}, "task_data"),
        ({"references": "demo/nothing"}, "references"),
        ({"strategy": "dualselct"}, "strategy"),
        ({"rho": 1.95}, "parameters"),
        ({"suites": "own", "own_suites": "plain_safty"}, "suites"),
        ({"lr": -1.0}, "training"),
    ],
)
def test_bad_input_is_a_sentence_at_its_field_and_nothing_is_queued(page: Tuning, change: dict, field: str) -> None:
    before = len(page.studio.rows)
    assert list(page.errors(page.finetune.check(*page.filled(**change))[3:])) == [field]
    started = page.finetune.begin(*page.filled(**change))
    assert list(page.errors(started[3 : 3 + len(page.finetune.errors)])) == [field]
    assert len(page.studio.rows) == before


def test_an_uploaded_file_is_shown_and_handed_on_as_it_is(page: Tuning, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(f'prompt,response,kind\nhello,"{NASTY}",benign\nbye,good bye,\n')
    form = page.filled(own_task=str(path))
    preview = page.finetune.check(*form)[1]
    assert "mine.csv: 2 rows" in everything(preview)
    assert NASTY in everything(preview)
    assert page.finetune.spec(*form)["task_data"] == str(path)
    assert page.finetune.begin(*form)[-4] in page.studio.rows


def test_a_few_bad_lines_of_an_upload_are_listed_by_their_number(page: Tuning, tmp_path: Path) -> None:
    good = [json.dumps({"question": f"fox {number}?", "answer": "dog"}) for number in range(500)]
    path = tmp_path / "gsm8k.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join([*good[:250], "", "{oops", *good[250:]]).encode()))
    checked = page.finetune.check(*page.filled(own_task=str(path)))
    assert "gsm8k.jsonl.gz: 500 rows" in everything(checked[1])
    assert "Left out: 1 row; line 252: not JSON." in everything(checked[1])
    assert not page.errors(checked[3:])


def test_a_wrong_upload_is_refused_at_its_field(page: Tuning, tmp_path: Path) -> None:
    for name, words_, said in (
        ("a.csv", "words,label\n1,2\n", "line 2: no known shape (it has label, words)"),
        ("b.jsonl", '{"prompt": "x", "label": "y"}\n', "line 1: no known shape"),
        ("c.jsonl", "{oops\n", "line 1: not JSON"),
        ("d.svg", "<svg/>", "no kind that can be uploaded; allowed is .jsonl, .csv"),
        ("e.jsonl", "\n", "holds no rows"),
        ("f.mix.yaml", "rows: 2", "no kind that can be uploaded"),
    ):
        path = tmp_path / name
        path.write_text(words_)
        assert said in page.errors(page.finetune.check(*page.filled(own_references=str(path)))[3:])["references"]


def test_an_upload_has_a_size_a_plain_name_and_a_kind_that_the_backend_reads(tmp_path: Path) -> None:
    assert uploads.ENDINGS == ENDINGS
    assert uploads.CHOOSABLE == [".csv", ".gz", ".jsonl", ".parquet"]
    odd = tmp_path / "a:b\u202e.csv"
    odd.write_text("prompt,response\nfox?,dog\n")
    handed = Path(uploads.handed_on(str(odd), "task_data"))
    assert handed.read_bytes() == odd.read_bytes()
    assert re.fullmatch(r"[0-9a-f]{16}\.csv", handed.name)
    large = tmp_path / "large.csv"
    with large.open("wb") as file:
        file.truncate(uploads.MOST_BYTES + 1)
    with pytest.raises(UserError, match=r"task_data: large\.csv holds 52,428,801 bytes; allowed is at most 52,428,800"):
        uploads.handed_on(str(large), "task_data")


def test_a_fine_tuning_from_start_to_finish(page: Tuning) -> None:
    run = page.begin()
    page.now = 2.5
    seen = page.seen(run)
    assert "step 20 of 40" in everything(seen["live"])
    assert "Stop and keep" in everything(seen["live"])
    assert "task loss" in everything(seen["vitals"])
    assert len(seen["curves"]["figure"]["data"]) > 4
    assert "Dropped 10 of 20 unsafe (50 %), 2 of 200 benign" in everything(seen["dropped"])
    ticked = page.wiring.tick(run, None, [1], 0, None, [])
    assert "step 20 of 40" in everything(ticked[page.finetune.live])
    assert "step 20 of 40" in everything(ticked[page.wiring.shell.strip])
    page.now = 9.0
    seen = page.seen(run)
    assert "Finished: 40 steps" in everything(seen["live"])
    assert "Data report" in everything(seen["result"])
    assert page.wiring.tick(run, None, [1], 0, None, [])[page.wiring.shell.timer]["active"] is False


def test_a_reload_finds_the_run_again_by_memory_by_link_and_by_itself(page: Tuning) -> None:
    run = page.begin()
    page.now = 2.5
    for memory, query in (({"run": run}, {}), (None, {"run": str(run)}), (None, {})):
        found = page.wiring.open_page(memory, {"view": "finetune", **query}, *page.form())
        assert "step 20 of 40" in everything(found[page.finetune.live])
        assert max(found[page.finetune.watched.curves]["figure"]["data"][0]["x"]) == 20
        assert found[page.wiring.shell.watching] == run
        assert found[page.wiring.shell.timer]["active"] is True


def test_pause_and_resume_go_on_from_the_same_step(page: Tuning) -> None:
    run = page.begin()
    page.now = 2.5
    found = page.wiring.do("pause", run, run, None, 0)
    assert words.PAUSED in everything(found[page.finetune.live])
    page.now = 60.0
    assert page.studio.run(run).status == RunStatus.PAUSED
    assert found[page.wiring.shell.timer]["active"] is False
    found = page.wiring.do("restart", run, run, None, 0)
    assert "step 20 of 40" in everything(found[page.finetune.live])
    assert found[page.wiring.shell.timer]["active"] is True


def test_stop_and_keep_finishes_early_and_cancel_offers_a_way_back(page: Tuning) -> None:
    run = page.begin()
    page.now = 1.0
    found = page.wiring.do("stop_and_keep", run, run, None, 0)
    assert "Finished: 8 steps" in everything(found[page.finetune.live])
    other = page.begin(seed=5)
    page.now = 2.0
    found = page.wiring.do("cancel", other, other, None, 0)
    assert "Cancelled." in everything(found[page.finetune.live])
    assert "Resume" in everything(found[page.finetune.live])


def test_a_failed_run_says_what_happened_with_its_log_folded(page: Tuning) -> None:
    run = page.begin()
    page.studio.fail(run, "memory: 9 GB are needed and 4 GB are free. Use a smaller batch.")
    seen = page.seen(run)
    assert "Use a smaller batch" in everything(seen["live"])
    assert "Try again with these settings" in everything(seen["live"])
    assert seen["result"][2][0] == "details"


def test_a_finished_checkpoint_goes_to_merge_and_compare_with_its_base(page: Tuning) -> None:
    run = page.begin()
    page.now = 9.0
    for name, target in (("sweep_tuned", page.merge), ("compare_tuned", page.compare)):
        found = page.wiring.do(name, run, run, None, 0)
        assert found[target.aligned] == "demo/aligned"
        assert found[target.tuned] == f"runs/{run}/checkpoint"
        assert found[page.wiring.shell.tabs]["selected"] in ("merge", "compare")


def test_the_runs_page_shows_the_curves_of_the_chosen_run_and_others_stay_theirs(page: Tuning) -> None:
    run = page.begin()
    page.now = 2.5
    chosen, _, detail, _, _, figure, *_ = page.runs.choose(event(name="choose", key=str(run)))
    assert chosen == run
    assert "Pause" in everything(detail)
    assert figure["figure"]["data"]
    assert page.runs.choose(event(name="choose", key="1"))[5] is None
    assert "Stored result of this pair" in everything(page.merge.view(run, ("demo/aligned", "demo/tool-mixed-sft"))[0])
    assert run not in [one.id for runs in page.explore.by_task().values() for one in runs]


def test_the_dropped_table_sorts_and_shows_all(page: Tuning) -> None:
    run = page.begin()
    page.now = 9.0
    sort, shown, tree = page.finetune.watched.act(run, "step", 20, event(name="sort", key="score"))
    assert (sort, shown) == ("score", 20)
    rows = tree[-2][2][-1][2:]
    scores = [float(everything(row[6])) for row in rows]
    assert scores == sorted(scores, reverse=True)
    _, shown, tree = page.finetune.watched.act(run, sort, 20, event(name="show", key="36"))
    assert shown == 36
    assert len(tree[-1][2][-1][2:]) == 36


def test_telemetry_is_read_once_a_step_and_knows_what_was_replaced() -> None:
    now = [0.0]
    studio = FakeStudio(step_seconds=1.0, clock=lambda: now[0])
    run, asked, read = studio.submit("tune", {}).id, [], studio.telemetry
    studio.telemetry = lambda number, after=0: asked.append(after) or read(number, after)
    telemetry = Telemetry(studio)
    for moment in (1.0, 2.5):
        now[0] = moment
        found = telemetry.read(studio.run(run))
    assert asked == [0, 8]
    assert [row["step"] for row in found["steps"]] == list(range(1, 21))
    assert [one["id"] for one in found["replaced"]] == ["reference-3", "reference-4", "reference-5"]
    studio.pause(run)
    assert len(telemetry.read(studio.run(run))["steps"]) == 20
    assert asked[-1] == 0
