"""huggingface.co: which commit a name stands for just now, and doing without a network."""

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.errors import UserError

_PATIENCE = 10.0  # seconds


def hub_commit(key: str, name: str, kind: str, revision: str | None) -> str | None:
    """The commit, or None where the Hub cannot be reached (no network, or HF_HUB_OFFLINE).

    Asking first spares a machine without a network the minute of retries that loading would take.
    kind: "dataset" or "model". Raises UserError, naming the config `key`, where there is none such.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=_PATIENCE).sha
    except RevisionNotFoundError as error:
        raise UserError(f"{key}={name}: has no revision {revision!r} on huggingface.co") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{key}={name}: no such folder here, nor such a {kind} on huggingface.co "
            "(a private one needs `hf auth login`)"
        ) from error
    except Exception:  # whichever way the network fails: what is on disk may do
        return None


@contextmanager
def offline(wanted: bool) -> Iterator[None]:
    """Where `wanted`, the libraries take what is on disk or fail at once, without retries."""
    if not wanted:
        yield
        return
    from datasets import config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before
