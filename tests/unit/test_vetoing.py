"""What a state is held against, and the rule by which it is made without one update."""

import pytest

from tasks import vetoing
from tasks.federation import Federation
from tasks.paths import RunPaths
from tests.unit import raw_site


@pytest.mark.parametrize(
    ("changes", "num_updates", "kept"),
    [
        (["rule=trimmed_mean"], 3, True),
        (["rule=trimmed_mean"], 2, False),
        (["rule=average", "nearest_mixing=true"], 2, False),
        (["rule=average"], 1, True),
    ],
)
def test_a_rule_that_so_few_updates_cannot_carry_gives_way_to_the_average(tmp_path, changes, num_updates, kept):
    params = raw_site.params(*(f"federate.aggregation.{change}" for change in changes))
    federation = Federation(raw_site.roster("inside", "inside"), params, RunPaths(tmp_path, "tiny", "tiny"))

    found = vetoing.with_possible_rule(federation, num_updates).params.federate.aggregation

    assert (found == params.federate.aggregation) is kept
    if not kept:
        assert (found.rule, found.nearest_mixing) == ("average", False)


def test_many_small_losses_are_held_against_the_best_score_of_each_site(tmp_path):
    federation = Federation(raw_site.roster("inside", "inside"), raw_site.params(), RunPaths(tmp_path, "tiny", "tiny"))
    first, second = federation.sites
    for index, (one, other) in enumerate([(0.4, None), (0.5, None), (0.46, 0.2), (0.42, 0.3)]):
        federation.journal().write_validation(first, index, one)
        federation.journal().write_validation(second, index, other)

    assert vetoing.best_scores(federation, 1) == {first: 0.5, second: None}
    assert vetoing.best_scores(federation, 3) == {first: 0.5, second: 0.3}
