"""A checkpoint's files: a folder on this machine, or a repository of the Hub, fetched once and kept."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.load import ConfigError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_PATIENCE = 10.0  # seconds until the Hub counts as out of reach


class Files:
    """The files of a checkpoint; `name` is a folder, or a repository of the Hub (`revision` of it).

    Raises ConfigError, one line with the remedy, for what is missing or cannot be read.
    """

    def __init__(self, name: str | Path, *, revision: str | None = None):
        self.name = str(name)
        self.revision = revision
        self.folder = Path(name).expanduser()
        if not self.folder.is_dir() and (self.folder.exists() or self.name.count("/") > 1):
            raise ConfigError(
                f"pretrained={self.name}: is no folder; give one that holds {CONFIG} and "
                f"{WEIGHTS}, or a name on the Hub"
            )
        self._asked = False
        self._known: str | None = None

    def find(self, file: str) -> Path | None:
        """Where a file of the checkpoint lies, None where the checkpoint has no such file."""
        if self.folder.is_dir():
            path = self.folder / file
            return path if path.is_file() else None
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError

        commit = self._commit()
        if commit is None:
            kept = try_to_load_from_cache(self.name, file, revision=self.revision)
            return Path(kept) if isinstance(kept, str) else None
        try:
            return Path(hf_hub_download(self.name, file, revision=commit))
        except EntryNotFoundError:
            return None
        except Exception as error:  # whichever way a download fails
            raise ConfigError(
                f"pretrained={self.name}: {file} cannot be fetched ({error})"
            ) from error

    def need(self, file: str) -> Path:
        """Where a file lies; ConfigError where there is none."""
        path = self.find(file)
        if path is not None:
            return path
        if not self.folder.is_dir() and self._commit() is None:
            raise ConfigError(
                f"pretrained={self.name}: no such folder here, and the Hub cannot be reached nor is "
                f"the checkpoint in its cache ({file}); give a folder, or a network"
            )
        raise ConfigError(
            f"pretrained={self.name}: {file} is missing; give a checkpoint with {CONFIG} and "
            "safetensors weights (transformers' save_pretrained writes both)"
        )

    def config(self) -> dict[str, Any]:
        """What config.json says."""
        path = self.need(CONFIG)
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            raise ConfigError(f"{path}: is not JSON ({error})") from error
        if not isinstance(content, dict) or "model_type" not in content:
            raise ConfigError(f"{path}: says no model_type, so it is no checkpoint of transformers")
        return content

    def tensors(self) -> "Weights":
        """The checkpoint's tensors, read one by one when asked for."""
        index = self.find(INDEX)
        if index is None:
            return Weights([self.need(WEIGHTS)])
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{index}: is not an index of safetensors ({error})") from error
        return Weights([self.need(name) for name in names])

    def _commit(self) -> str | None:
        """The Hub's commit of this revision, asked for once; None where the Hub cannot be reached.

        Asking first spares a machine without a network the minute of retries a download would take.
        """
        if self._asked:
            return self._known
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            HFValidationError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        self._asked = True
        try:
            self._known = (
                HfApi().repo_info(self.name, revision=self.revision, timeout=_PATIENCE).sha
            )
        except RevisionNotFoundError as error:
            raise ConfigError(
                f"pretrained={self.name}: has no revision {self.revision!r}"
            ) from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise ConfigError(
                f"pretrained={self.name}: no such folder here, nor such a model on the Hub "
                "(a private one needs `hf auth login`)"
            ) from error
        except Exception:  # whichever way the network fails: what is on disk may do
            return None
        return self._known


class Weights:
    """The tensors of one or several safetensors files, by name."""

    def __init__(self, paths: list[Path]):
        self._file: dict[str, Any] = {}
        self.paths = paths
        for path in paths:
            try:
                opened = safe_open(path, framework="pt")
                self._file |= dict.fromkeys(opened.keys(), opened)
            except (SafetensorError, OSError) as error:
                raise ConfigError(
                    f"{path}: is damaged or no safetensors file ({error}); fetch or save it again"
                ) from error

    def names(self) -> set[str]:
        """The names of all tensors."""
        return set(self._file)

    def __getitem__(self, name: str) -> Tensor:
        return self._file[name].get_tensor(name)
