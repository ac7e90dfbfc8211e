"""The table in docs/updates.md is what ``python -m tests.store_faults`` finds."""

from tests.store_faults import PAGE, page


def test_the_table_of_faults_is_what_they_lead_to() -> None:
    text = PAGE.read_text("utf-8")
    assert page(text) == text, "run: python -m tests.store_faults"
