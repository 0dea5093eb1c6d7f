"""Fingerprints of checkpoint folders by content. Needs no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from agevlm.data.checkpoint_files import INDEX
from agevlm.vlm.contract import Fingerprint

PART_OF_FILE = {
    "config.json": "config",
    "generation_config.json": "generation_config",
    "preprocessor_config.json": "processor",
    "processor_config.json": "processor",
    "image_processor_config.json": "processor",
    "video_preprocessor_config.json": "processor",
    "chat_template.json": "chat_template",
    "chat_template.jinja": "chat_template",
    "adapter_config.json": "adapter",
    "model.safetensors.index.json": "weights",
}
TOKENIZER_FILES = {
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
}
SETTLED_NS = 2_000_000_000
"""A file that changed less than this ago may change again within one tick of the file system's clock, unseen."""


def part_of(name: str) -> str | None:
    """Which part of the model a checkpoint file belongs to; None for files that do not change answers."""
    if name.endswith(".safetensors"):
        return "weights"
    if name in TOKENIZER_FILES or name.endswith((".model", ".tiktoken")):
        return "tokenizer"
    return PART_OF_FILE.get(name)


class HashCache:
    """SHA-256 of files, remembered by path, size, mtime and ctime, so that large weights are read once.

    Losing or deleting the cache file only costs time; a damaged one is ignored.
    """

    def __init__(self, path: Path | None = None) -> None:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._path = path or root / "agevlm" / "hashes.json"
        self._known: dict[str, list[object]] = {}
        try:
            loaded = json.loads(self._path.read_text())
            if isinstance(loaded, dict):
                self._known = loaded
        except (OSError, ValueError):
            pass

    def sha256(self, path: Path) -> str:
        """Hex SHA-256 of a file's content."""
        real = path.resolve()
        stat = real.stat()
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        entry = self._known.get(str(real))
        if isinstance(entry, list) and len(entry) == 4 and entry[:3] == state:
            return str(entry[3])
        with real.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED_NS:
            self._known[str(real)] = [*state, digest]
        return digest

    def save(self) -> None:
        """Write the cache; a read-only home is no reason to fail."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(self._known))
            temporary.replace(self._path)


def fingerprint_parts(parts: Mapping[str, str]) -> Fingerprint:
    """The fingerprint of named parts."""
    canonical = json.dumps(dict(sorted(parts.items())), separators=(",", ":"))
    return Fingerprint(hashlib.sha256(canonical.encode()).hexdigest(), dict(sorted(parts.items())))


def shared_weights(folder: Path) -> list[str]:
    """Weight files outside the folder that its index names: parts that several checkpoints have in common."""
    try:
        places = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return sorted(name for name in set(places.values()) if Path(name).name != name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def fingerprint_folder(folder: Path, settings: Mapping[str, str], cache: HashCache | None = None) -> Fingerprint:
    """Fingerprint of a checkpoint folder and the settings it is loaded with.

    Args:
        folder: a transformers checkpoint; only files that can change an answer are read.
        settings: dtype, quantisation, a chat template given on the command line.
        cache: remembers file hashes between calls; a default one in the user's cache folder.
    """
    cache = cache or HashCache()
    digests: dict[str, list[str]] = {}
    # Only what transformers reads: a trainer's output folder holds whole checkpoints of other steps below it.
    for path in sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/*.jinja")]):
        part = "chat_template" if path.suffix == ".jinja" else part_of(path.name)
        if part and path.is_file():
            digests.setdefault(part, []).append(f"{path.relative_to(folder).as_posix()} {cache.sha256(path)}")
    for name in shared_weights(folder):
        digests.setdefault("weights", []).append(f"{name} {cache.sha256(folder / name)}")
    cache.save()
    parts = {part: hashlib.sha256("\n".join(lines).encode()).hexdigest() for part, lines in digests.items()}
    return fingerprint_parts({**parts, **settings})
