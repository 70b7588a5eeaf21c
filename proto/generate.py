"""Regenerate the Python code of rankscope/v1 from its .proto files, or check that it is up to date.

The code is committed, made with one exact generator, so that it runs on every protobuf from 4.25 on and nobody
needs a compiler to install Rankscope:

    python proto/generate.py          # rewrite the generated files
    python proto/generate.py --check  # exit 1 if they are not what the .proto files say, 3 if no generator can be had
"""

import argparse
import filecmp
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

GENERATOR = ["grpcio-tools==1.62.3", "mypy-protobuf==3.5.0", "setuptools<80"]
ROOT = Path(__file__).resolve().parent
CACHE = ROOT.parent / ".generator"


def generator() -> Path:
    """Return the Python of an environment that holds the generator, made on first use."""
    stamp = CACHE / "installed"
    python = CACHE / "bin" / "python"
    if not stamp.exists():
        if sys.version_info >= (3, 13):
            raise RuntimeError("the generator has no wheel for Python 3.13 or later: use 3.10, 3.11 or 3.12")
        venv.create(CACHE, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *GENERATOR], check=True)
        stamp.write_text("\n".join(GENERATOR))
    return python


def generate(python: Path, out: Path) -> list[Path]:
    """Write the generated files of every .proto below `out`; return them, relative to it."""
    protos = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("rankscope/**/*.proto"))
    outs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [str(python), "-m", "grpc_tools.protoc", f"-I{ROOT}", *outs, *protos]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PATH": path}, stderr=subprocess.DEVNULL)
    return sorted(p.relative_to(out) for p in out.glob("rankscope/**/*_pb2*.py*"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is out of date")
    check: bool = parser.parse_args().check
    try:
        python = generator()
    except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
        print(f"generate: no generator here: {error}", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        files = generate(python, fresh)
        stale = [f for f in files if not (ROOT / f).exists() or not filecmp.cmp(fresh / f, ROOT / f, shallow=False)]
        if check:
            for file in stale:
                print(f"proto/{file} is out of date: run 'make proto'", file=sys.stderr)
            return 1 if stale else 0
        for file in stale:
            (ROOT / file).write_bytes((fresh / file).read_bytes())
            print(f"wrote proto/{file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
