"""The README's tables are those of the code. To rewrite them: ``python -m tests.readme_tables``."""

import pytest

from tests.readme_tables import README, TABLES, between, rewritten


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_has_the_table_of_the_code(name: str) -> None:
    assert between(name, README.read_text()) == TABLES[name]()


def test_rewriting_changes_nothing_but_the_tables() -> None:
    metrics = "<!-- metrics:begin -->\nwas here\n<!-- metrics:end -->\n"
    flags = "<!-- flags:begin -->\n<!-- flags:end -->\n"
    done = rewritten(f"before\n{metrics}between\n{flags}after\n")
    assert rewritten(done) == done
    assert done.startswith("before\n<!-- metrics:begin -->\n| metric |")
    assert "|\n<!-- metrics:end -->\nbetween\n<!-- flags:begin -->\n| flag |" in done
    assert done.endswith("|\n<!-- flags:end -->\nafter\n")
    assert "was here" not in done
