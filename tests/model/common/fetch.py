"""Fetches the common model tests of the installed transformers into the environment; `make env` runs it.

The wheel of transformers has no tests, its source distribution has them. Only its tests/ folder is kept, as the package
`transformers_tests` in the environment's folder `transformers-tests`: nothing of it is ever part of this repository.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(sys.prefix) / "transformers-tests"
PACKAGE = "transformers_tests"

STUBS = {
    "generation/test_utils.py": "class GenerationTesterMixin: ...\n",
    "exporters/test_export.py": "class ExportTesterMixin: ...\n",
}
"""What test_modeling_common.py imports and the source distribution lacks."""


def marker(version: str) -> str:
    """Content of the package's __init__.py, written last: with it the package is whole, and made by this very file."""
    return f'__version__ = "{version}"\nfetched_by = "{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}"\n'


def pip_options_of_uv(uv: str) -> str:
    """The package indexes that uv is set up with, in the words of a requirements file; empty where uv cannot say."""
    command = [uv, "pip", "compile", "--quiet", "--no-header", "--emit-index-url", "--emit-find-links", "-"]
    answer = subprocess.run([*command, "--python", sys.executable], input="", capture_output=True, text=True)
    return answer.stdout if answer.returncode == 0 else ""


def download(version: str, folder: Path, uv: str | None) -> Path:
    """Path of the source distribution, from uv's package indexes, else from pip's own."""
    # pip reads the metadata with setuptools, which this environment has: no need to fetch another one
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += ["--no-binary", "transformers", "--no-build-isolation", "--dest", str(folder)]
    requirements = folder / "requirements.txt"
    said = ""
    for options in ([pip_options_of_uv(uv)] if uv and shutil.which(uv) else []) + [""]:
        requirements.write_text(f"{options}\ntransformers=={version}\n")
        answer = subprocess.run([*pip, "--requirement", str(requirements)], capture_output=True, text=True)
        found = list(folder.glob("transformers-*.tar.gz"))
        if answer.returncode == 0 and found:
            return found[0]
        said += answer.stderr
    raise SystemExit(
        f"{said}\nThe common model tests of transformers {version} could not be fetched (above: what pip said).\n"
        f"Needed is its source distribution, transformers-{version}.tar.gz: run `make env` again with a package index\n"
        "that has it, or put the file into a folder and run `PIP_FIND_LINKS=that/folder make env`."
    )


def extract(archive: Path, version: str, target: Path) -> None:
    """Put the tests/ folder of the archive at target, with stubs for what it lacks."""
    root = f"transformers-{version}/tests/"
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.name.startswith(root)]
        for member in members:
            member.name = member.name.removeprefix(root)
        tar.extractall(target, members, filter="data")
    if not (target / "test_modeling_common.py").is_file():
        raise SystemExit(f"{archive.name} has no tests/test_modeling_common.py: this version cannot be used")
    for name, text in STUBS.items():
        path = target / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    (target / "__init__.py").write_text(marker(version))


def main(uv: str | None = None) -> None:
    version = importlib.metadata.version("transformers")
    present = FOLDER / PACKAGE / "__init__.py"
    if present.is_file() and present.read_text() == marker(version):
        return
    print(f"fetching the common model tests of transformers {version}")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        extract(download(version, Path(scratch), uv), version, Path(scratch) / PACKAGE)
        (Path(scratch) / PACKAGE).rename(FOLDER / PACKAGE)


if __name__ == "__main__":
    main(*sys.argv[1:2])
