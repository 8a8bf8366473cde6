"""Imported by a script that needs the project's packages: goes on as the interpreter of .venv, if this one is none."""
import os
import sys
from pathlib import Path

PYTHON = Path(__file__).resolve().parent.parent.parent / ".venv/bin/python"

if sys.prefix == sys.base_prefix and PYTHON.exists():
    os.execv(PYTHON, [str(PYTHON), *sys.argv])
