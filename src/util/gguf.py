"""Names of GGUF checkpoints, files that hold config, tokenizer and weights at once: `folder/file.gguf`, and on the hub
`owner/name/file.gguf`."""

from pathlib import Path

from util.packages import package_problems

ENDING = ".gguf"
# What is installed to read one; requirements-gguf.txt pins it.
PACKAGE = "gguf"


def is_gguf(name: str | Path) -> bool:
    """Whether a model of this name is a GGUF file."""
    return str(name).lower().endswith(ENDING)


def joined(name: str, file: str | None) -> str:
    """The name of the GGUF checkpoint `file` in a folder or a model of the hub; `name` itself where it ends in it, or
    where no file is given."""
    return name if file is None or name.endswith(f"/{file}") else f"{name.rstrip('/')}/{file}"


def parted(name: str) -> tuple[str, str | None]:
    """What from_pretrained takes a checkpoint by: a folder or a name on the hub, and the GGUF file in it; None where it
    is none."""
    if not is_gguf(name):
        return name, None
    path = Path(name)
    if path.is_file() or len(path.parts) < 3:
        return str(path.parent), path.name
    return "/".join(path.parts[:2]), "/".join(path.parts[2:])


def gguf_problems(name: str) -> list[str]:
    """Sentences on why a GGUF file of this name cannot be read; none of other checkpoints, or of the hub's."""
    if not is_gguf(name):
        return []
    folder, file = parted(name)
    if not Path(name).is_file() and (Path(folder).is_dir() or folder.startswith((".", "/", "~"))):
        return [f"{name}: there is no such file."]
    if file and not Path(name).is_file() and len(Path(folder).parts) != 2:
        return [f"{name}: there is no such file, and a GGUF file on the hub is named owner/name/file.gguf."]
    return package_problems(f"The GGUF file {name}", PACKAGE, "give a checkpoint in safetensors")
