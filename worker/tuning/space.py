"""What is searched: the keys, the choices of each, and the settings that a candidate comes to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worker.settings import BatchingSection, KafkaSection, ModelSection, Section, Settings

SIZE, BUCKETS = "batching.max_batch_size", "batching.buckets"
# Of the ways to choose buckets: the rule of the default, twice as many of them, and none between one and the largest.
DEFAULT, FINE, COARSE = "default", "fine", "coarse"
OWN = "configured"

Value = int | float | str | tuple[int, ...]
Candidate = Mapping[str, int | float | str]
"""One choice for each key; that of ``batching.buckets`` is the name of a ladder."""

_SECTIONS: Mapping[str, type[Section]] = {"kafka": KafkaSection, "model": ModelSection, "batching": BatchingSection}
_MEBIBYTE = 1 << 20
# What a change of less than two hardly shows above the noise, so the steps are coarse.
_NUMBERS: Mapping[str, tuple[int | float, ...]] = {
    SIZE: (64, 128, 256, 512, 1024, 2048, 4096),
    "batching.max_batch_delay_s": (0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    "batching.gather_s": (0.0, 0.00025, 0.0005, 0.001),
    "model.intra_op_threads": (1, 2, 4, 8),
    "kafka.fetch_max_wait_s": (0.01, 0.05, 0.1, 0.25, 0.5),
    "kafka.max_fetch_bytes": (_MEBIBYTE, 2 * _MEBIBYTE, 4 * _MEBIBYTE, 8 * _MEBIBYTE, 16 * _MEBIBYTE),
}
# gzip costs more than zstd and saves less.
_WORDS: Mapping[str, tuple[str, ...]] = {
    BUCKETS: (DEFAULT, FINE, COARSE),
    "kafka.compression": ("none", "lz4", "snappy", "zstd"),
}
FETCH_KEYS = frozenset({"kafka.fetch_max_wait_s", "kafka.max_fetch_bytes"})


@dataclass(frozen=True, slots=True)
class Parameter:
    """One key: its choices in order (``ordered``: neighbours are alike), the default, and what is configured."""

    key: str
    choices: tuple[int | float | str, ...]
    ordered: bool
    default: int | float | str
    configured: int | float | str


@dataclass(frozen=True, slots=True)
class Space:
    """All that is searched, around the settings that were given."""

    settings: Settings
    parameters: tuple[Parameter, ...]

    @property
    def defaults(self) -> Candidate:
        """The values that Headrace ships."""
        return {one.key: one.default for one in self.parameters}

    @property
    def configured(self) -> Candidate:
        """The values that the settings have now."""
        return {one.key: one.configured for one in self.parameters}

    def resolve(self, candidate: Candidate) -> dict[str, Value]:
        """The value of each key under ``candidate``, as ``worker.settings`` takes it."""
        values: dict[str, Value] = dict(candidate)
        values[BUCKETS] = _buckets(str(candidate[BUCKETS]), int(candidate[SIZE]), self.settings.batching.buckets)
        return values

    def changes(self, candidate: Candidate) -> dict[str, Value]:
        """What must be written into the configuration to get ``candidate``: the keys that differ from what it has.

        Buckets by the rule of the default need no key where none is set.
        """
        values = self.resolve(candidate)
        if candidate[BUCKETS] == DEFAULT and "buckets" not in self.settings.batching.model_fields_set:
            del values[BUCKETS]
        return {key: value for key, value in values.items() if value != _value(self.settings, key)}


def space_around(settings: Settings, cores: int, *, fetch: bool) -> Space:
    """The space around ``settings`` on a machine of so many cores, with or without the keys of fetching.

    What is configured is always among the choices, so is the default, and no choice breaks a rule between keys.
    """
    parameters = [
        _numbers(settings, key, choices, cores) for key, choices in _NUMBERS.items() if fetch or key not in FETCH_KEYS
    ]
    parameters += [_words(settings, key, choices) for key, choices in _WORDS.items()]
    return Space(settings, tuple(parameters))


def _possible(settings: Settings, key: str, choice: float, cores: int) -> bool:
    if key == SIZE:
        return choice <= settings.flow.max_in_flight_records
    return key != "model.intra_op_threads" or choice <= cores


def _numbers(settings: Settings, key: str, choices: tuple[int | float, ...], cores: int) -> Parameter:
    configured, default = _value(settings, key), _default(key)
    if not isinstance(configured, (int, float)) or not isinstance(default, (int, float)):
        raise TypeError(key)
    possible = {choice for choice in (*choices, default) if _possible(settings, key, choice, cores)}
    # A configuration may allow no default: one with little in flight takes no batch of 512.
    default = default if default in possible else configured
    return Parameter(key, tuple(sorted({*possible, configured})), True, default, configured)


def _words(settings: Settings, key: str, choices: tuple[str, ...]) -> Parameter:
    if key == BUCKETS:
        configured = _ladder(settings.batching)
        default = DEFAULT
    else:
        configured, default = str(_value(settings, key)), str(_default(key))
    return Parameter(key, tuple(dict.fromkeys((*choices, configured))), False, default, configured)


def _ladder(batching: BatchingSection) -> str:
    """The name of the ladder that the configured buckets follow."""
    size, own = batching.max_batch_size, batching.buckets
    return next((name for name in (DEFAULT, FINE, COARSE) if _buckets(name, size, own) == own), OWN)


def _buckets(ladder: str, size: int, own: tuple[int, ...]) -> tuple[int, ...]:
    """The buckets of a ladder, ascending and ending at ``size``."""
    if ladder == DEFAULT:
        return BatchingSection(max_batch_size=size).buckets
    steps = {FINE: tuple(1 << power for power in range(size.bit_length())), COARSE: (1,), OWN: own}[ladder]
    return (*(step for step in steps if step < size), size)


def _value(settings: Settings, key: str) -> Value:
    section, _, name = key.partition(".")
    value: Value = getattr(getattr(settings, section), name)
    return value


def _default(key: str) -> object:
    section, _, name = key.partition(".")
    return _SECTIONS[section].model_fields[name].default
