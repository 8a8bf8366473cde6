"""Run one of the Python targets under atheris: `python tests/fuzz/run.py TARGET [libFuzzer's options]`."""
import sys

import atheris

with atheris.instrument_imports(include=["xenvbd", "json", "texts"]):
    import texts

name = sys.argv.pop(1)
atheris.Setup(sys.argv, lambda data: texts.run(name, data))
atheris.Fuzz()
