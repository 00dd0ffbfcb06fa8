"""The oracles can fail: each catches a bug that is planted into what it judges."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import bundle, configuration, decoder, headers, schema
from tests.fuzz.folder import opened_files
from worker.adapters.bundle import _Files
from worker.config_file import _Loading
from worker.core.dead_letters import DeadLetter
from worker.core.decoder import Decoder
from worker.core.records import Decoded
from worker.core.specs import NumberSpec


def test_a_decoder_that_mixes_up_neighbours_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that depends on the length of its span breaks the decoder's oracle."""
    decode = Decoder.decode

    def shifted(self: Decoder, values: Any) -> Decoded:
        decoded = decode(self, values)
        decoded.tensors[0][0] += len(values) - 1
        return decoded

    monkeypatch.setattr(Decoder, "decode", shifted)
    with pytest.raises(AssertionError):
        decoder.check(decoder.TARGET.seeds[0])


def test_a_bound_that_is_not_enforced_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema's minimum that the compiler drops breaks the schema's oracle."""
    monkeypatch.setattr("worker.core.schema.NumberSpec", lambda **bounds: NumberSpec(integer=bounds["integer"]))
    text = b'{"type":"object","required":["id"],"properties":{"id":{"type":"integer","minimum":5}}}'
    with pytest.raises(AssertionError, match="jsonschema says False"):
        schema.check(text + b"\n%%%%\n" + b'{"id":3}')


def test_a_file_read_outside_the_bundle_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that follows the manifest out of its folder breaks the bundle's oracle."""
    monkeypatch.setattr(_Files, "inside", lambda self, name, _at: (self._root / name).resolve())
    with pytest.raises(AssertionError, match="read outside the bundle"):
        bundle.check(bundle.TARGET.seeds[5])


def test_a_secret_in_a_message_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that repeats a password breaks the configuration's oracle."""
    report = _Loading._report

    def telling(self: _Loading, located: Any, key: str, code: str, message: str, remedy: str, *rest: Any) -> None:
        report(self, located, key, code, f"{message} among {self.environ}", remedy, *rest)

    monkeypatch.setattr(_Loading, "_report", telling)
    with pytest.raises(AssertionError, match="a secret is shown"):
        configuration.check(configuration.TARGET.seeds[5])


def test_a_header_lost_on_the_way_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A redrive that drops one of the record's own headers breaks the headers' oracle."""
    redriven = DeadLetter.headers_to_redrive
    monkeypatch.setattr(DeadLetter, "headers_to_redrive", lambda self: redriven(self)[1:])
    with pytest.raises(AssertionError):
        headers.check(headers.TARGET.seeds[1])


def test_opened_files_are_seen(tmp_path: Path) -> None:
    """Whatever Python opens inside the block is listed, by whichever call; what comes after it is not."""
    for name in "abc":
        (tmp_path / name).touch()
    with opened_files() as opened:
        (tmp_path / "a").read_bytes()
        os.close(os.open(tmp_path / "b", os.O_RDONLY))
    (tmp_path / "c").read_bytes()
    assert [path for path in opened if str(tmp_path) in path] == [str(tmp_path / "a"), str(tmp_path / "b")]
