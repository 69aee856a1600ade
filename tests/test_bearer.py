"""The key of a server goes into its header, and into no sentence."""

from __future__ import annotations

import pytest

from omnimix.bearer import bearer
from omnimix.cli.remote import Remote
from omnimix.errors import OmnimixError
from omnimix.evaluate import server


def test_what_stands_around_a_key_is_no_part_of_it() -> None:
    assert bearer("sk-1\n", "KEY") == {"Authorization": "Bearer sk-1"}  # as files of secrets end
    assert bearer(None, "KEY") == bearer(" \n", "KEY") == {}


@pytest.mark.parametrize("key", ["sk-1\nsk-2", "sk-é", "sk-1\rX: y"])
def test_no_door_prints_a_key_that_cannot_be(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OmnimixError, match="KEY holds what no key has") as caught:
        bearer(key, "KEY")
    assert "sk-" not in str(caught.value)
    with pytest.raises(OmnimixError, match="the key holds") as caught:
        Remote("http://127.0.0.1:9", key)
    assert "sk-" not in str(caught.value)
    monkeypatch.setenv(server.KEY, key)
    with pytest.raises(OmnimixError, match="OPENAI_API_KEY holds") as caught:
        server.Server("http://127.0.0.1:9/v1", "any")._post({})
    assert "sk-" not in str(caught.value)
