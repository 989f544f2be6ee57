"""Whether Hugging Face's hub answers, found out once and soon: its client retries for most of a minute.

Where it does not, the client is told so while it is used, and looks into its cache alone.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub
from huggingface_hub import constants

SECONDS = 4.0
"""In which the hub has to answer; looking up its name may take longer than any timeout of a connection."""


@contextmanager
def within_reach() -> Iterator[None]:
    """While open, what is asked of the hub is answered by it, or, where it cannot be reached, by its cache."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def answers() -> bool:
    """Whether the hub gives any answer to one short question, through the proxies that its client knows."""
    heard: list[bool] = []

    def ask() -> None:
        try:
            huggingface_hub.utils.get_session().head(constants.ENDPOINT, timeout=SECONDS)
            heard.append(True)
        except Exception:  # whatever the client's library of the day raises: there was no answer
            pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS)
    return bool(heard)
