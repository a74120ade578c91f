"""Compile `protos/` to `extauthz/_pb/descriptors.binpb`; with `--check`, only say whether it differs (exit 1)."""

import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "extauthz" / "_pb" / "descriptors.binpb"


def compiled() -> bytes:
    """The descriptor set of every file under `protos/`, imports included, in an order that does not change."""
    sources = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.binpb"
        includes = [f"-I{ROOT / 'protos'}", f"-I{resources.files('grpc_tools').joinpath('_proto')}"]
        if protoc.main(["protoc", *includes, "--include_imports", f"--descriptor_set_out={out}", *sources]):
            raise SystemExit("protos/ does not compile: see protoc's message above")
        return out.read_bytes()


def main() -> int:
    """Write the descriptor set, or compare it."""
    if "--check" not in sys.argv:
        TARGET.write_bytes(compiled())
        return 0
    if TARGET.read_bytes() == compiled():
        return 0
    print(f"{TARGET.relative_to(ROOT)} differs from protos/: run make protos")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
