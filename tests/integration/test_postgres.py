"""The PostgreSQL of the tests: databases of their own, a crash, and the same port again."""

from pathlib import Path

import psycopg
import pytest

from tests.postgres import PASSWORD, Database, running


def test_each_test_has_an_empty_database_of_its_own(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("CREATE TABLE kept (number int)")
        assert connection.execute("SELECT current_database(), current_schema()").fetchone() == (
            database.name,
            "public",
        )
        assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_one_user_needs_the_password_of_the_file(database: Database) -> None:
    assert database.password_file.read_text().strip() == PASSWORD
    with psycopg.connect(database.guarded_url, password=PASSWORD) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("guarded",)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(database.guarded_url)


def test_a_crashed_server_comes_back_on_its_port_with_what_was_committed() -> None:
    with running() as server:
        url, folder = server.url(), server.folder
        with server.connect() as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
            server.crash()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
        server.start()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
    assert not Path(folder).exists()
