"""Each case of the catalogue has a test: here, named after it, or elsewhere, where its subject is tested."""
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parent

# Cases whose test stands with its subject: file and function.  Some have another in this directory as well.
ELSEWHERE = {
    "X4": "test_device.py::test_a_frontend_area_that_vanishes_stops_the_plane",
    "X6": "test_backend.py::test_a_domain_replaced_at_once_by_one_of_its_number_loses_its_disks",
    "X17": "xenbus/::test_a_frontend_that_did_not_wait_for_init_wait_is_connected",
    "X25": "xenbus/::test_a_frontend_that_resumes_has_its_new_ring_connected_while_we_stay_connected",
    "X27": "test_area.py::test_an_area_removed_at_any_moment_is_never_resurrected",
    "X28": "xenbus/::test_a_guest_that_refuses_to_close_keeps_its_disk_until_force",
    "X29": "disk/test_image.py::test_a_second_writer_is_refused_by_the_name_of_the_first",
    "F1": "disk/test_image.py::test_no_format_is_ever_probed",
    "F2": "disk/test_image.py::test_anything_but_a_file_or_a_device_is_refused_saying_what_it_is",
    "F4": "dataplane/test_errors.py::test_a_write_without_room_waits_until_there_is_some",
    "G13": "dataplane/test_kept.py::test_G13_no_more_pages_than_the_cap_are_mapped_and_the_rest_is_copied",
    "W9": "test_sandbox.py::test_what_a_worker_may_not_do",
    "C1": "test_control.py::test_another_user_is_refused_even_if_the_mode_let_him_in",
}
# Numbers that are not here were never given.
NUMBERS = {
    "K": [1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15],
    "Q": [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 23, 24, 25],
    "D": [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12], "I": [1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 13],
    "G": [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13], "V": [1, 3, 4, 5, 6, 7],
    "X": [1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 23, 24, 25, 27, 28, 29, 30, 31, 32],
    "F": [1, 2, 3, 4, 5, 6], "C": [1, 2, 3, 4],
    "W": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
}
CASES = [f"{letter}{number}" for letter, numbers in NUMBERS.items() for number in numbers]


def names() -> list[list[str]]:
    """The cases that each test in this directory is named after."""
    return [name.rstrip("_").split("_") for path in HERE.glob("test_*.py")
            for name in re.findall(r"^def test_((?:[A-Z]\d+_)+)", path.read_text(), re.M)]


def here() -> set[str]:
    """All that are tested here; Q10_Q13 stands for all four."""
    found = set()
    for cases in names():
        found |= set(cases)
        if len(cases) == 2 and cases[0][0] == cases[1][0]:
            found |= {f"{cases[0][0]}{n}" for n in range(int(cases[0][1:]), int(cases[1][1:]) + 1)}
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_case_has_its_test(case: str) -> None:
    if case in here():
        return
    file, _, function = ELSEWHERE[case].partition("::")
    paths = (TESTS / file).rglob("*.py") if file.endswith("/") else [TESTS / file]
    assert any(f"def {function}(" in path.read_text() for path in paths)


def test_no_test_is_named_after_a_case_that_is_not_in_the_catalogue() -> None:
    assert {case for cases in names() for case in cases} <= set(CASES)


@pytest.mark.parametrize("case", ELSEWHERE)
def test_a_case_elsewhere_is_in_the_catalogue(case: str) -> None:
    assert case in CASES
