"""A service's database: opened, brought up to date by Alembic, read at once, and written by groups that are durable."""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.pool import QueuePool

from serving.state.files import only_read
from serving.state.tables import VERSION

MOST_TOGETHER = 256  # writes of one transaction: who waits behind one waits as long as those take
BUSY_S = 30  # how long a write waits for another process's
LOCK = (
    0x5052454C55  # of PostgreSQL: one writer at a time, so that rows are seen in the order of their numbers
)
NO_ROOM_TO_SHARE = (
    "SQLITE_IOERR_SHMSIZE"  # the file beside a SQLite database that its processes share could not grow
)
MIGRATIONS = Path(__file__).parent / "migrations"

Write = Callable[[sa.Connection], Any]


class StateError(RuntimeError):
    """The state cannot be read or written now. `full`: for want of room."""

    def __init__(self, message: str, full: bool = False):
        super().__init__(message)
        self.full = full


def sqlite_url(path: Path) -> str:
    """The URL of a database in a file."""
    return f"sqlite:///{path}"


class State:
    """One database, for any number of threads and processes.

    Writes wait in a line; all that wait are one transaction, which is on the disk (SQLite: WAL, synchronous
    FULL) before any of them is answered. One that raises takes nothing of the others with it.
    """

    def __init__(self, url: str, writes: bool = True):
        """Open `url` (SQLAlchemy's: sqlite:///FILE, postgresql://…) and bring its tables up to date.

        Without `writes` no byte of a SQLite file changes, unless its tables are of an older version.
        Raises `ValueError` for a URL of anything else, `StateError` where it cannot be opened.
        """
        self.writes = writes
        self.url = sa.make_url(url)
        if self.url.drivername == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
        if self.url.drivername not in ("sqlite", "postgresql+psycopg"):
            raise ValueError(f"--state is {self.url!r}; expected sqlite:///FILE or postgresql://…")
        self.is_sqlite = self.url.drivername == "sqlite"
        if self.is_sqlite and not self.url.database:
            raise ValueError("--state names no file; expected sqlite:///FILE")
        self.engine = self._engine()
        with as_state_error():
            self._migrate()
        self._line: queue.SimpleQueue[tuple[Write, Future] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, name="state", daemon=True)
        if writes:
            self._writer.start()

    def is_file(self, path: Path) -> bool:
        """Is it SQLite's, in that file?"""
        return self.is_sqlite and Path(self.url.database or "").resolve() == path.resolve()

    def close(self) -> None:
        """Write what waits, and close."""
        if self.writes:
            self._line.put(None)
            self._writer.join()
        self.engine.dispose()

    def submit(self, write: Write) -> Future:
        """Do `write(connection)` in a transaction; done when it is durable.

        The future's error is what `write` raised, or a `StateError`.
        """
        assert self.writes, "a state that was opened to be read"
        done: Future = Future()
        self._line.put((write, done))
        return done

    def write(self, write: Write) -> Any:
        """`submit`, waited for."""
        return self.submit(write).result()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees what is committed, statement by statement. Raises `StateError`."""
        with as_state_error(), self.engine.connect() as connection:
            if not self.is_sqlite:  # whose driver begins nothing by itself
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection

    def version(self) -> str | None:
        """Which version the tables are of."""
        with self.reading() as connection:
            return _version(connection)

    # -- inside ----------------------------------------------------------------------------------------------

    def _engine(self) -> sa.Engine:
        if not self.is_sqlite:
            return sa.create_engine(self.url, pool_size=4, max_overflow=4, pool_pre_ping=True)
        engine = sa.create_engine(
            self.url if self.writes else f"sqlite:///{only_read(Path(self.url.database or ''))}&uri=true",
            poolclass=QueuePool, pool_size=4, max_overflow=4,
            connect_args={"timeout": BUSY_S, "check_same_thread": False, "isolation_level": None},
        )  # fmt: skip
        if not self.writes:
            return engine

        @sa.event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        return engine

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """One writer at a time, from before its first read."""
        with self.engine.connect() as connection:
            if self.is_sqlite:  # the driver begins nothing by itself
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.exec_driver_sql("COMMIT")
                except BaseException:
                    if connection.connection.in_transaction:
                        connection.exec_driver_sql("ROLLBACK")
                    raise
            else:
                with connection.begin():
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
                    yield connection

    def _migrate(self) -> None:
        with self.engine.connect() as connection:
            there = _version(connection)
        if there == VERSION:
            return
        if not self.writes:
            State(self.url.render_as_string(hide_password=False)).close()
            return
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self._transaction() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _write_all(self) -> None:
        last = False
        while not last:
            first = self._line.get()
            some = [] if first is None else [first]
            last = first is None
            while not last and len(some) < MOST_TOGETHER:
                try:
                    more = self._line.get_nowait()
                except queue.Empty:
                    break
                last = more is None
                some += [] if more is None else [more]
            if some:
                self._write(some)

    def _write(self, some: list[tuple[Write, Future]]) -> None:
        some = [(write, done) for write, done in some if done.set_running_or_notify_cancel()]
        answers: list[tuple[Future, Any, BaseException | None]] = []
        try:
            with as_state_error(), self._transaction() as connection:
                for write, done in some:
                    connection.exec_driver_sql("SAVEPOINT one")
                    try:
                        answers.append((done, write(connection), None))
                        connection.exec_driver_sql("RELEASE SAVEPOINT one")
                    except DBAPIError as error:
                        if not isinstance(error, DataError | IntegrityError):
                            raise  # it is the database, and everybody's
                        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT one")
                        answers.append((done, None, StateError("the state cannot hold this")))
                    except Exception as error:
                        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT one")
                        answers.append((done, None, error))
        except Exception as error:
            answers = [(done, None, error) for _, done in some]
        for done, answer, failed in answers:
            if failed is None:
                done.set_result(answer)
            else:
                done.set_exception(failed)


def _version(connection: sa.Connection) -> str | None:
    """Which version the tables are of; None: there are none."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(sa.text("SELECT version_num FROM alembic_version"))


@contextmanager
def as_state_error() -> Iterator[None]:
    """What a database says, as a `StateError` that names no file and no statement."""
    try:
        yield
    except DBAPIError as error:
        text = str(error.orig)
        full = "disk is full" in text or getattr(error.orig, "sqlstate", None) == "53100"
        full |= getattr(error.orig, "sqlite_errorname", None) == NO_ROOM_TO_SHARE
        raise StateError(
            "the state has no room left" if full else "the state cannot be reached", full
        ) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StateError(
            "the state has no room left" if full else "the state cannot be reached", full
        ) from error
