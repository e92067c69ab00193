"""All the SQL there is: runs, their points and outcomes. SQLAlchemy Core; SQLite in the home folder, Postgres by URL.

Every method is one short transaction. Times are seconds since the epoch. It does not know which changes of status are
allowed: that is `jobs.queue`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from backend.errors import UserError
from backend.types import Outcome, Point, Run, RunStatus, Score

metadata = sa.MetaData()

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("owner", sa.String(80), nullable=False),
    sa.Column("status", sa.String(20), nullable=False, index=True),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("recipe", sa.JSON, nullable=False),
    sa.Column("recipe_hash", sa.String(64), nullable=False, index=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
    sa.Column("fraction", sa.Float, nullable=False, default=0.0),
    sa.Column("phrase", sa.Text, nullable=False, default=""),
    sa.Column("seconds_left", sa.Float),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Column("result", sa.JSON),
    sa.Column("stored", sa.Boolean, nullable=False, default=False),
    sa.Column("bundle_key", sa.String(80), unique=True),
    sa.Column("pid", sa.Integer),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("queued", sa.Float, nullable=False),
    sa.Column("request", sa.String(10), nullable=False, default="", server_default=""),
)

points = sa.Table(
    "points",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("index", sa.Integer, nullable=False),
    sa.Column("method", sa.String(40), nullable=False),
    sa.Column("coefficients", sa.JSON, nullable=False),
    sa.Column("scores", sa.JSON, nullable=False),
    sa.Column("outcomes", sa.JSON, nullable=False),
    sa.Column("effective", sa.JSON, nullable=False),
    sa.Column("anchor", sa.String(20), nullable=False),
    sa.Column("details", sa.JSON, nullable=False),
    sa.UniqueConstraint("run", "index"),
)

outcomes = sa.Table(
    "outcomes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("point", sa.ForeignKey("points.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("suite", sa.Text, nullable=False),
    sa.Column("axis", sa.String(20), nullable=False),
    sa.Column("sample", sa.Text, nullable=False),
    sa.Column("sample_hash", sa.String(64), nullable=False),
    sa.Column("category", sa.Text, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("tokens", sa.Integer, nullable=False),
    sa.Column("finish", sa.String(10), nullable=False),
)

schema = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, nullable=False))


def _create(connection: sa.Connection) -> None:
    metadata.create_all(connection)


def _add_request(connection: sa.Connection) -> None:
    """What a running run was asked to do: "", "pause" or "keep". A new database has the column already."""
    if "request" not in {column["name"] for column in sa.inspect(connection).get_columns("runs")}:
        connection.execute(sa.text("ALTER TABLE runs ADD COLUMN request VARCHAR(10) NOT NULL DEFAULT ''"))


MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (_create, _add_request)


class Database:
    """The runs of one studio. Safe to open from several processes at once."""

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        if url.startswith("sqlite"):
            sa.event.listen(self.engine, "connect", _configure_sqlite)
            sa.event.listen(self.engine, "begin", _begin_immediate)
        try:
            self._migrate()
        except sa.exc.OperationalError as error:
            raise UserError(
                "STUDIO_HOME",
                problem=f"the database {self.engine.url.render_as_string()} cannot be opened ({error.orig})",
                remedy="Set STUDIO_HOME to a folder that you may write to.",
            ) from error

    def _migrate(self) -> None:
        with self.engine.begin() as connection:
            known = sa.inspect(connection).has_table(schema.name)
            version = connection.scalar(sa.select(sa.func.max(schema.c.version))) or 0 if known else 0
            if version > len(MIGRATIONS):
                raise UserError(
                    "STUDIO_HOME",
                    problem=f"the database has schema {version}, this studio knows {len(MIGRATIONS)}",
                    remedy="Update the studio, or set STUDIO_HOME to another folder.",
                )
            for number in range(version, len(MIGRATIONS)):
                MIGRATIONS[number](connection)
                connection.execute(schema.insert().values(version=number + 1))

    def close(self) -> None:
        self.engine.dispose()

    # ---------------------------------------------------------------------------------------------- runs

    def insert_run(self, **fields: Any) -> Run:
        """Add a run; `status` is queued unless given, times are now unless given."""
        now = time.time()
        values = {"status": RunStatus.QUEUED.value, "created": now, "queued": now} | fields
        with self.engine.begin() as connection:
            key = connection.execute(runs.insert().values(**values)).inserted_primary_key
            return self._run(connection, int(key[0]))  # type: ignore[index]

    def run(self, run: int) -> Run:
        with self.engine.begin() as connection:
            return self._run(connection, run)

    def list_runs(self, *, status: Iterable[RunStatus] | None = None) -> list[Run]:
        """Newest first; stored demo runs last."""
        query = sa.select(runs).order_by(runs.c.stored, runs.c.id.desc())
        if status is not None:
            query = query.where(runs.c.status.in_([one.value for one in status]))
        with self.engine.begin() as connection:
            rows = connection.execute(query).mappings().all()
            positions = self._positions(connection)
        return [_to_run(row, positions) for row in rows]

    def find_recipe(self, recipe_hash: str) -> int | None:
        """The newest finished run of this recipe."""
        query = (
            sa.select(runs.c.id)
            .where(runs.c.recipe_hash == recipe_hash, runs.c.status == RunStatus.DONE.value)
            .order_by(runs.c.id.desc())
            .limit(1)
        )
        with self.engine.begin() as connection:
            return connection.scalar(query)

    def has_bundle(self, bundle_key: str) -> int | None:
        with self.engine.begin() as connection:
            return connection.scalar(sa.select(runs.c.id).where(runs.c.bundle_key == bundle_key))

    def move(self, run: int, source: Iterable[RunStatus], target: RunStatus, **fields: Any) -> bool:
        """Set the status if it is one of `source`; False when somebody else was faster."""
        change = (
            runs.update()
            .where(runs.c.id == run, runs.c.status.in_([status.value for status in source]))
            .values(status=target.value, **fields)
        )
        with self.engine.begin() as connection:
            return connection.execute(change).rowcount == 1

    def update_run(self, run: int, **fields: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(runs.update().where(runs.c.id == run).values(**fields))

    def oldest_queued(self) -> int | None:
        query = sa.select(runs.c.id).where(runs.c.status == RunStatus.QUEUED.value)
        with self.engine.begin() as connection:
            return connection.scalar(query.order_by(runs.c.queued, runs.c.id).limit(1))

    def control(self, run: int) -> tuple[bool, int | None]:
        """(is a cancel requested, the child's pid)."""
        query = sa.select(runs.c.cancel_requested, runs.c.pid).where(runs.c.id == run)
        with self.engine.begin() as connection:
            row = connection.execute(query).one()
        return bool(row[0]), row[1]

    def request(self, run: int) -> str:
        """What a running run was asked to do: nothing (empty), "pause" or "keep"."""
        with self.engine.begin() as connection:
            return str(connection.scalar(sa.select(runs.c.request).where(runs.c.id == run)))

    # ---------------------------------------------------------------------------------------------- points

    def import_run(self, fields: Mapping[str, Any], measured: Sequence[tuple[Point, Sequence[Outcome]]]) -> int:
        """Add a finished run with all its points, whole or not at all; returns its id."""
        now = time.time()
        values = {"queued": now, "status": RunStatus.DONE.value, "fraction": 1.0, "phrase": "done"} | dict(fields)
        with self.engine.begin() as connection:
            key = connection.execute(runs.insert().values(**values)).inserted_primary_key
            run = int(key[0])  # type: ignore[index]
            for point, answered in measured:
                _insert_point(connection, point, run, answered)
            return run

    def add_point(self, point: Point, answered: Sequence[Outcome]) -> int:
        """Store a point with its outcomes, whole or not at all; returns its id."""
        with self.engine.begin() as connection:
            return _insert_point(connection, point, point.run, answered)

    def points_of(self, run_ids: Sequence[int]) -> list[Point]:
        """The points of these runs, by run (in the order asked) and index."""
        query = sa.select(points).where(points.c.run.in_(list(run_ids))).order_by(points.c.run, points.c.index)
        with self.engine.begin() as connection:
            found = [_to_point(row) for row in connection.execute(query).mappings()]
        order = {run: place for place, run in enumerate(run_ids)}
        return sorted(found, key=lambda point: (order[point.run], point.index))

    def point(self, point: int) -> Point:
        with self.engine.begin() as connection:
            row = connection.execute(sa.select(points).where(points.c.id == point)).mappings().first()
        if row is None:
            raise UserError("point", problem=f"there is no point {point}", remedy="Pick one from a run's points.")
        return _to_point(row)

    def find_point(self, recipe: str, *, prefer: int = 0) -> Point | None:
        """A point measured by this recipe (its details say which), of the run `prefer` where it has one."""
        mine = points.c.run == prefer
        query = sa.select(points).where(points.c.details["recipe"].as_string() == recipe)
        with self.engine.begin() as connection:
            row = connection.execute(query.order_by(mine.desc(), points.c.id).limit(1)).mappings().first()
        return None if row is None else _to_point(row)

    def outcomes_of(self, point: int, *, suite: str | None = None) -> list[Outcome]:
        query = sa.select(outcomes).where(outcomes.c.point == point).order_by(outcomes.c.id)
        if suite is not None:
            query = query.where(outcomes.c.suite == suite)
        with self.engine.begin() as connection:
            return [Outcome(**row) for row in connection.execute(query).mappings()]

    # ---------------------------------------------------------------------------------------------- inside

    def _run(self, connection: sa.Connection, run: int) -> Run:
        row = connection.execute(sa.select(runs).where(runs.c.id == run)).mappings().first()
        if row is None:
            raise UserError("run", problem=f"there is no run {run}", remedy="List the runs to see their numbers.")
        return _to_run(row, self._positions(connection))

    def _positions(self, connection: sa.Connection) -> dict[int, int]:
        query = sa.select(runs.c.id).where(runs.c.status == RunStatus.QUEUED.value).order_by(runs.c.queued, runs.c.id)
        return {run: place for place, run in enumerate(connection.scalars(query), start=1)}


_RUN_FIELDS = tuple(name for name in Run.__dataclass_fields__ if name not in ("position", "status"))
_OUTCOME_FIELDS = tuple(name for name in Outcome.__dataclass_fields__ if name not in ("id", "point"))


def _insert_point(connection: sa.Connection, point: Point, run: int, answered: Sequence[Outcome]) -> int:
    values = {
        "run": run,
        "index": point.index,
        "method": point.method,
        "coefficients": point.coefficients,
        "scores": {axis: score.to_json() for axis, score in point.scores.items()},
        "outcomes": point.outcomes,
        "effective": point.effective,
        "anchor": point.anchor,
        "details": point.details,
    }
    key = connection.execute(points.insert().values(**values)).inserted_primary_key
    point_id = int(key[0])  # type: ignore[index]
    if answered:
        rows = [{name: getattr(one, name) for name in _OUTCOME_FIELDS} | {"point": point_id} for one in answered]
        connection.execute(outcomes.insert(), rows)
    return point_id


def _to_run(row: Any, positions: Mapping[int, int]) -> Run:
    fields = {name: row[name] for name in _RUN_FIELDS}
    return Run(status=RunStatus(row["status"]), position=positions.get(row["id"], 0), **fields)


def _to_point(row: Any) -> Point:
    scores = {axis: Score.from_json(score) for axis, score in row["scores"].items()}
    return Point(**{name: row[name] for name in Point.__dataclass_fields__ if name != "scores"}, scores=scores)


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see `_begin_immediate`
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(connection: sa.Connection) -> None:
    # Deferred transactions that turn into writers fail at once with "database is locked"; immediate ones wait.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
