"""Every broken recipe is refused with one error, at the right line and column, with the right advice."""

from pathlib import Path

import pytest
from broken import BROKEN, Case

from launcher import recipe
from launcher.errors import RecipeErrors


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_one_located_error(case: Case, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    with pytest.raises(RecipeErrors) as caught:
        recipe.load(path, case.overrides)
    assert len(caught.value.problems) == 1, caught.value.problems
    assert caught.value.problems[0].startswith(case.expected(tmp_path))
    assert caught.value.exit_code == 89


def test_cases_have_different_names() -> None:
    assert len({case.name for case in BROKEN}) == len(BROKEN) >= 30
