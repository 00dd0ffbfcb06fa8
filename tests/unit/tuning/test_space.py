"""The space holds what is configured, allows nothing that the settings refuse, and names the keys to change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tuning.studies import settings
from worker.settings import Settings
from worker.settings_rules import RULES
from worker.tuning.space import BUCKETS, DEFAULT, FETCH_KEYS, OWN, SIZE, Candidate, Space, space_around

ODD = {"batching": {"max_batch_size": 100, "buckets": [3, 100], "gather_s": 0.0001}}
SPACES = [
    space_around(settings(), 4, fetch=True),
    space_around(settings(**ODD), 1, fetch=False),
    space_around(settings(batching={"max_batch_size": 8}, flow={"max_in_flight_records": 200}), 64, fetch=True),
]


@st.composite
def candidates(draw: st.DrawFn) -> tuple[int, Candidate]:
    """A space and any candidate of it."""
    at = draw(st.integers(0, len(SPACES) - 1))
    return at, {one.key: draw(st.sampled_from(one.choices)) for one in SPACES[at].parameters}


@given(candidates())
def test_every_candidate_is_a_valid_configuration(drawn: tuple[int, Candidate]) -> None:
    """Whatever is drawn passes the settings' own checks and all rules between keys."""
    space, candidate = SPACES[drawn[0]], drawn[1]
    config = space.settings.model_dump(by_alias=True, exclude_unset=True)
    for dotted, value in space.resolve(candidate).items():
        section, _, key = dotted.partition(".")
        config.setdefault(section, {})[key] = value
    config["event"]["schema"], config["model"]["path"] = "/event.json", "/bundle"
    built = Settings.model_validate(config)
    assert [rule.code for rule in RULES if rule.check(built) is not None] == []


@pytest.mark.parametrize("space", SPACES)
def test_known_candidates_are_among_the_choices(space: Space) -> None:
    """Defaults and configured values can be enqueued: each is a choice, and choices that are numbers ascend."""
    for one in space.parameters:
        assert one.default in one.choices
        assert one.configured in one.choices
        assert not one.ordered or list(one.choices) == sorted(set(one.choices))


def test_defaults_are_those_of_the_settings() -> None:
    """Where nothing is set, what is configured is what is shipped, and there is nothing to change."""
    space = SPACES[0]
    assert space.configured == space.defaults
    assert space.changes(space.defaults) == {}


def test_a_default_stays_one_whatever_is_configured() -> None:
    """Gains are measured against what is shipped, also where the user has other values."""
    own = {"batching": {"max_batch_delay_s": 0.02, "gather_s": 0.0}, "kafka": {"fetch_max_wait_s": 0.05}}
    assert space_around(settings(**own), 4, fetch=True).defaults == SPACES[0].defaults


def test_own_values_stay_choices() -> None:
    """Odd values of the user's own are searched too, own buckets as a ladder that fits other sizes."""
    space = SPACES[1]
    assert space.configured[BUCKETS] == OWN
    assert space.resolve({**space.configured, SIZE: 2048})[BUCKETS] == (3, 100, 2048)
    assert space.resolve({**space.configured, SIZE: 64})[BUCKETS] == (3, 64)
    assert space.changes(space.configured) == {}


def test_changes_name_what_differs() -> None:
    """Only keys that differ from the configuration are named; buckets by the default's rule where some are set."""
    fresh, odd = SPACES[0], SPACES[1]
    assert fresh.changes({**fresh.defaults, SIZE: 64}) == {SIZE: 64}
    assert fresh.changes({**fresh.defaults, BUCKETS: "coarse"}) == {BUCKETS: (1, 512)}
    assert odd.changes({**odd.configured, BUCKETS: DEFAULT}) == {BUCKETS: (1, 8, 32, 100)}


def test_no_default_that_the_configuration_forbids() -> None:
    """With little in flight the default batch size would be refused, so what is configured takes its place."""
    size = next(one for one in SPACES[2].parameters if one.key == SIZE)
    assert size.choices == (8, 64, 128)
    assert size.default == 8


def test_fetching_is_searched_on_a_cluster_alone() -> None:
    """The mock cluster answers fetches in its own way, so that figures for their keys would mislead."""
    assert {one.key for one in SPACES[0].parameters} >= FETCH_KEYS
    assert not FETCH_KEYS & {one.key for one in SPACES[1].parameters}
    threads = [one.choices for one in SPACES[1].parameters if one.key == "model.intra_op_threads"]
    assert threads == [(1,)]
