"""The fuzz targets in Python, over their corpora and what hypothesis makes of them; `make fuzz` goes on from here."""
from pathlib import Path

import pytest
from fuzz import texts
from hypothesis import example, given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "fuzz/corpus"
SEEDS = {name: [path.read_bytes() for path in sorted((CORPUS / name).iterdir())] for name in texts.TARGETS}


@st.composite
def mutated(draw, seeds: list[bytes]) -> bytes:
    """A seed with some of its bytes taken out, and others put in their place."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 3))):
        at, gone = draw(st.integers(0, len(data))), draw(st.integers(0, 4))
        put = draw(st.binary(max_size=6) | st.sampled_from([b"-1", b"4abc", b"\0", b'"\\ud800"', b"1_0"]))
        data = data[:at] + put + data[at + gone:]
    return data


@pytest.mark.parametrize("name", texts.TARGETS)
def test_what_is_parsed_is_understood_or_refused(name: str) -> None:
    for seed in SEEDS[name]:
        texts.run(name, seed)

    @settings(max_examples=400)
    @given(st.binary(max_size=200) | mutated(SEEDS[name]))
    @example(b"")
    def run(data: bytes) -> None:
        texts.run(name, data)

    run()


def test_a_finding_is_one() -> None:
    """The harness itself: what is no refusal comes out."""
    texts.TARGETS["broken"] = lambda data: data.decode("ascii")
    try:
        with pytest.raises(UnicodeDecodeError):
            texts.run("broken", b"\xff")
    finally:
        del texts.TARGETS["broken"]
