"""Upload files to the Hugging Face Hub in one commit, with errors that say what to do."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from kpod.records.errors import ConfigError, KpodError, require
from kpod.records.hub_reach import check_hub_answers

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAIN = "main"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json")
"""What an earlier upload may have left, which would be loaded in place of the new student, or beside it."""


def upload(
    repo: str, files: Mapping[str, Path | bytes], run: str, revision: str = MAIN, *, private: bool = False
) -> str:
    """Upload files in one commit; returns the commit's address. Nothing can be seen there before all have arrived.

    Args:
        repo: Where, as `owner/name`; made if it is not there.
        files: What, as `files_of` gives it. Weights that are there already and are not among them are deleted.
        run: Named in the commit's message.
        revision: A branch; made if it is not there.
        private: Only you and your organisation can see it.

    Raises:
        ConfigError: If the token may not write there, or a public repository is to be private.
        KpodError: If the Hub cannot be reached, refuses the files, or the connection broke.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = hub()
    with _explained(repo):
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise ConfigError(f"{repo} is a public repository, which --private does not change; make it private first")
        if revision != MAIN:
            api.create_branch(repo, branch=revision, exist_ok=True)
        added = [CommitOperationAdd(name, file) for name, file in files.items()]
        deleted = [CommitOperationDelete(name) for name in _left_over(api, repo, revision, files)]
        message = f"The student of the run {run}, from kpod"
        return api.create_commit(repo, [*added, *deleted], commit_message=message, revision=revision).commit_url


def hub() -> "HfApi":
    """The Hub's client.

    Raises:
        ConfigError: If the Hub takes calls and does not answer.
    """
    from huggingface_hub import HfApi

    check_hub_answers()
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def _left_over(api: "HfApi", repo: str, revision: str, files: Iterable[str]) -> list[str]:
    there = [name for name in api.list_repo_files(repo, revision=revision) if "/" not in name and name not in files]
    return [name for name in there if any(fnmatch(name, one) for one in WEIGHTS)]


def check_name(repo: str) -> None:
    """Raise ConfigError unless a name is that of a repository with its owner."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{repo!r} is no name of a repository on the Hub: {error}") from None
    require(repo.count("/") == 1, "the repository", repo, "written as owner/name")


def check_login() -> None:
    """Raise ConfigError offline, or where there is no token."""
    from huggingface_hub import constants, get_token

    if constants.is_offline_mode():
        raise ConfigError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it, or look at --dry-run")
    if get_token() is None:
        raise ConfigError("there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN")


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn what the Hub's client raises into a sentence that says what to do."""
    try:
        yield
    except KpodError:
        raise
    except Exception as error:  # the client raises anything from OSError to its own and its HTTP library's errors
        status = getattr(getattr(error, "response", None), "status_code", None)
        told = " ".join(f"{error} {error.__cause__ or ''}".split())[:300]
        if status == 401:
            raise ConfigError(
                f"{repo}: the Hub does not accept the token: log in with `hf auth login`, or correct HF_TOKEN"
            ) from error
        if status == 403:
            raise ConfigError(
                f"{repo}: the token may not write there: name a repository of your own, or take a token that may write "
                f"(https://huggingface.co/settings/tokens). The Hub says: {told}"
            ) from error
        if status is not None or isinstance(error, ValueError):
            raise KpodError(f"{repo}: the Hub refuses this{f' ({status})' if status else ''}: {told}") from error
        raise KpodError(
            f"{repo}: the Hub cannot be reached, or the connection broke ({type(error).__name__}: {told}). Nothing can "
            "be seen there yet: run the same command again, which sends no weights again that have arrived"
        ) from error
