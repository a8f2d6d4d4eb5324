"""Words of messages: similar names, the first of many lines, numbers; values by hand."""

import pytest

from pdetr3d.words import close_to, first, listed, number, some


def test_the_most_similar_name_is_hinted_at() -> None:
    names = ("car", "truck", "trailer")
    assert close_to("trcuk", names) == " (did you mean 'truck'?)" and close_to("bicycle", names) == ""
    assert close_to("lr", ["optim.lr"]) == "" and close_to("lr", ["optim.lr"], cutoff=0.3) != ""
    assert close_to(3, names) == ""  # YAML gives numbers where names should be


@pytest.mark.parametrize(
    ("count", "lines"),
    [(0, []), (2, ["0", "1"]), (3, ["0", "1", "... and 1 more"]), (9, ["0", "1", "... and 7 more"])],
)
def test_the_first_lines_and_the_number_of_the_others(count: int, lines: list[str]) -> None:
    assert first([str(i) for i in range(count)], 2) == lines


def test_lists_of_lines_and_of_names() -> None:
    names = [str(i) for i in range(21)]
    assert listed(names[:2]) == "\n  0\n  1" and listed([]) == ""
    assert listed(names).endswith("\n  19\n  ... and 1 more") and "more" not in listed(names[:20])
    assert some(names[:5]) == "0, 1, 2, 3, 4" and some(names[:7]) == "0, 1, 2, 3, 4, ... and 2 more"
    assert some([]) == "none"


def test_numbers_of_tables() -> None:
    assert [number(value) for value in (None, 7, 0.12349, 2.0)] == ["-", "7", "0.123", "2.000"]
    assert number(12.345, 1) == "12.3" and number(0.5, 0) == "0"
