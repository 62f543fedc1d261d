"""The page of settings is what its generator makes of the code and the sample."""

from tests.contracts.test_settings import VARIABLES
from tests.support.configuration_page import PAGE, page


def test_the_page_is_what_the_settings_say() -> None:
    assert PAGE.read_text() == page(), "run `just docs-settings`"


def test_the_page_has_every_variable() -> None:
    text = page()

    assert [name for name in VARIABLES if f"\n### `{name}`\n" not in text] == []
