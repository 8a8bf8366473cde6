"""Each case of the catalogue has a test: here, named after it, or elsewhere, where its subject is tested."""
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parent

# Cases whose test stands with its subject: file and function.
ELSEWHERE = {
    "X4": "test_device.py::test_a_frontend_area_that_vanishes_stops_the_plane",
    "X6": "test_backend.py::test_a_domain_replaced_at_once_by_one_of_its_number_loses_its_disks",
    "X17": "xenbus/::test_a_frontend_that_did_not_wait_for_init_wait_is_connected",
    "X19": "dataplane/test_stop.py::test_stop_works_under_full_load",
    "X20": "dataplane/test_stop.py::test_a_frontend_that_is_gone_is_let_go_at_once_and_gets_no_answer",
    "X22": "test_backend.py::test_a_guest_that_writes_without_end_gets_its_turns_and_no_more",
    "X24": "test_device.py::test_a_domain_that_is_gone_takes_its_disk_along",
    "X25": "xenbus/::test_a_frontend_that_resumes_has_its_new_ring_connected_while_we_stay_connected",
    "X27": "test_area.py::test_an_area_removed_at_any_moment_is_never_resurrected",
    "X28": "xenbus/::test_a_guest_that_refuses_to_close_keeps_its_disk_until_force",
    "X29": "disk/test_image.py::test_a_second_writer_is_refused_by_the_name_of_the_first",
    "F1": "disk/test_image.py::test_no_format_is_ever_probed",
    "F2": "disk/test_image.py::test_anything_but_a_file_or_a_device_is_refused_saying_what_it_is",
    "F4": "dataplane/test_errors.py::test_a_write_without_room_waits_until_there_is_some",
    "G13": "dataplane/test_kept.py::test_G13_no_more_pages_than_the_cap_are_mapped_and_the_rest_is_copied",
    "C1": "test_control.py::test_another_user_is_refused_even_if_the_mode_let_him_in",
    "C2": "test_control.py::test_a_request_that_is_too_long_ends_the_connection",
    "C3": "test_control.py::test_an_idle_client_is_closed_and_one_that_waits_for_its_reply_is_not",
}
NUMBERS = {
    "K": [1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15],
    "Q": [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 23],
    "D": [1, 2, 3, 4, 5, 7, 8, 9], "I": [1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 13],
    "G": [1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13], "V": [1, 3, 4, 5, 6],
    "X": [1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 16, 17, 19, 20, 22, 24, 25, 27, 28, 29],
    "F": [1, 2, 4], "C": [1, 2, 3],
}
CASES = [f"{letter}{number}" for letter, numbers in NUMBERS.items() for number in numbers]


def here() -> set[str]:
    """The cases that tests in this directory are named after; Q10_Q13 stands for all four."""
    found = set()
    for path in HERE.glob("test_*.py"):
        for name in re.findall(r"^def test_((?:[A-Z]\d+_)+)", path.read_text(), re.M):
            cases = name.rstrip("_").split("_")
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
