"""From checked rows to encoded examples, with a report of everything that was left out, cut or found twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from jinja2 import TemplateError

from backend.errors import UserError
from backend.tuning.balance import balance_warnings
from backend.tuning.data import Example, NoPrefix, encode, encode_prompt
from backend.tuning.overlap import keep_apart
from backend.tuning.rows import Row, Skipped, refuse_many, remarks

LISTED = 200


Answering = Callable[[list[list[int]]], Sequence[Sequence[int]]]  # token ids of prompts to those of their answers


class Part(NamedTuple):
    """One file's rows as the model takes them, and what became of the others."""

    examples: list[Example]
    report: dict[str, Any]


class Prepared(NamedTuple):
    """What is trained on; the texts show a row's words by its id, which may stand in both files for other rows."""

    task: list[Example]
    references: list[Example]
    task_texts: dict[str, dict[str, str]]
    reference_texts: dict[str, dict[str, str]]
    report: dict[str, Any]


def prepare(
    tokenizer: Any,
    task: tuple[Sequence[Row], Sequence[Skipped]],
    references: tuple[Sequence[Row], Sequence[Skipped]],
    *,
    evaluated: Collection[str],
    max_len: int,
    batch: int,
    answer: Answering,
) -> Prepared:
    """Encode both files and keep their prompts apart from each other and from what is measured.

    Prompts of the evaluation leave both files, prompts of the task data and repeated prompts leave the references. The
    task data may hold a row several times: that is a weight. System turns do not tell prompts apart; paraphrases pass.

    Args:
        task, references: rows and skipped rows of a file.
        evaluated: request keys of everything the run is measured on.
        max_len: tokens; longer task rows are cut, longer references left out.
        answer: what the start model says; asked once, with the prompts of the references that have no answer.

    Raises:
        UserError: more than 1 % of a file cannot be used, or less than one batch is left.
    """
    apart = keep_apart(task[0], references[0], set(evaluated))
    kept, pool = apart.task, apart.references
    answers = _answers(tokenizer, pool, max_len, answer)
    first = _encode(tokenizer, kept, task[1], max_len, {}, cut=True, field="task_data")
    second = _encode(tokenizer, pool, references[1], max_len, answers, cut=False, field="references")
    if len(first.examples) < batch:
        problem = f"{len(first.examples)} rows are left, fewer than one batch of {batch}"
        raise UserError("task_data", problem=problem, remedy="Add rows, or choose a smaller batch.")
    rows_twice = len(kept) - len({(row.key, row.messages[-1]["content"]) for row in kept})
    answered = {"answered_by_the_start_model": sum(one.id in answers for one in second.examples)} if answers else {}
    report = {
        "task": first.report | {"rows": len(task[0]) + len(task[1]), "repeated": rows_twice},
        "references": second.report
        | {"rows": len(references[0]) + len(references[1]), "repeated": apart.references_repeated}
        | answered,
        "disjoint": apart.report,
        "epoch": {
            "left_over": len(first.examples) % batch,
            "note": f"so many of the task rows, others each time, are left over after a pass in batches of {batch}",
        },
        "warnings": [
            *remarks(task[0], "task data"),
            *remarks(references[0], "references"),
            *balance_warnings(example.kind for example in second.examples),
        ],
    }
    shown = {row.id: row.text for row in pool}
    for name, one in answers.items():
        shown[name] = {**shown[name], "answer": _words(tokenizer, one)}
    return Prepared(first.examples, second.examples, {row.id: row.text for row in kept}, shown, report)


def _answers(tokenizer: Any, rows: Sequence[Row], max_len: int, answer: Answering) -> dict[str, Example]:
    """Rows without an answer, by id, with what the start model says; one that breaks off is learnt without an end."""
    asked: dict[str, tuple[Row, list[int]]] = {}
    for row in rows:
        if not row.is_answered:
            with suppress(TemplateError):  # listed with the other rows that the template refuses
                asked[row.id] = row, encode_prompt(tokenizer, row.messages[:-1])
    asked = {name: one for name, one in asked.items() if len(one[1]) <= max_len}
    given = answer([prompt for _, prompt in asked.values()]) if asked else ()
    return {
        row.id: Example((*prompt, *tokens), len(prompt), row.id, row.kind, row.group)
        for (row, prompt), tokens in zip(asked.values(), given, strict=True)
    }


def _words(tokenizer: Any, example: Example) -> str:
    """The answer as a reader sees it."""
    return str(tokenizer.decode(example.tokens[example.prompt :], skip_special_tokens=True)).strip()


def _encode(
    tokenizer: Any,
    rows: Sequence[Row],
    skipped: Sequence[Skipped],
    max_len: int,
    answers: Mapping[str, Example],
    *,
    cut: bool,
    field: str,
) -> Part:
    left_out = list(skipped)
    examples: list[Example] = []
    truncated = 0
    for row in rows:
        given = {"messages": list(row.messages), "id": row.id, "kind": row.kind, "group": row.group}
        try:
            example = answers.get(row.id) or encode(tokenizer, given)
        except TemplateError as error:
            left_out.append(Skipped(row.line, f"the chat template refuses it: {' '.join(str(error).split())}"))
            continue
        except NoPrefix as error:
            left_out.append(Skipped(row.line, str(error)))
            continue
        if len(example.tokens) > max_len:
            if not cut or example.prompt >= max_len:
                reason = "longer than max_len" if not cut else "no token of the answer is left at max_len"
                left_out.append(Skipped(row.line, reason))
                continue
            truncated += 1
            example = replace(example, tokens=example.tokens[:max_len])
        if not (row.is_answered or _words(tokenizer, example)):
            left_out.append(Skipped(row.line, "the start model answers nothing"))
            continue
        examples.append(example)
    refuse_many(left_out, len(rows) + len(skipped), field, "the file")
    report = {
        "kept": len(examples),
        "truncated": truncated,
        "skipped": [one._asdict() for one in sorted(left_out)][:LISTED],
        "skipped_by_reason": dict(Counter(one.reason for one in left_out)),
        "kinds": dict(Counter(one.kind or "unlabelled" for one in examples)),
        "target_tokens": sum(one.targets for one in examples),
    }
    return Part(examples, report)
