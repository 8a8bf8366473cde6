"""What people and programs read."""
import json

import pytest

from xenvbd.cli import render

WEB1 = {"disk": "web1:xvda", "domid": 7, "vdev": 51712, "kind": "vbd", "size": 20 << 30, "mode": "rw",
        "state": {"backend": "Connected", "frontend": "Connected"}, "target": "/srv/web1.img", "queues": 1,
        "ring-page-order": 4, "features": {"persistent": False, "max-indirect-segments": 256},
        "event-channels": [31], "inflight": 3, "note": "", "stats": {"wakeups": 5}}
DB2 = {"disk": "db2:xvda", "size": None, "mode": "ro", "target": "/srv/iso", "note": "waits for the guest",
       "state": {"backend": "InitWait", "frontend": "Initialising"}}


def test_a_table_is_aligned_and_has_no_trailing_blanks() -> None:
    assert render.table(("A", "BB"), [("long", ""), ("x", "y")]) == "A     BB\nlong\nx     y"


def test_list_has_a_line_for_each_disk() -> None:
    assert render.disk_table([WEB1, DB2]).splitlines() == [
        "DISK       ID  STATE                  SIZE  MODE  TARGET         RINGS  GRANTS  NOTE",
        "web1:xvda  7   Connected              20G   rw    /srv/web1.img  1x16p  copy",
        "db2:xvda   -   InitWait/Initialising  -     ro    /srv/iso       -      -       waits for the guest"]


def test_wide_letters_keep_the_columns_aligned() -> None:
    assert render.table(("A", "B"), [("仮想", "1"), ("köln", "2")]) == "A     B\n仮想  1\nköln  2"


def test_list_is_cut_to_the_terminal_the_target_first_and_at_its_start() -> None:
    long = WEB1 | {"target": "/srv/xen/a/directory/with/a/very/long/name/web1.img", "note": "stopped: no space left"}
    for columns in (60, 80, 100, 120):
        assert all(len(line) <= columns for line in render.disk_table([long, DB2], columns).splitlines())
    assert "  …ery/long/name/web1.img  " in render.disk_table([long], 100)
    assert render.disk_table([long], 120).splitlines()[1].endswith("stopped: no space left")
    assert long["target"] in render.disk_table([long])


def test_show_has_every_fact_on_a_line_and_the_size_twice() -> None:
    lines = render.disk_facts(WEB1).splitlines()
    assert "size             20G (21474836480 bytes)" in lines
    assert "features         persistent no, max-indirect-segments 256" in lines
    assert not any(line.startswith(("stats", "note")) for line in lines)


def test_each_warning_has_a_line_of_its_own() -> None:
    lines = render.disk_facts(WEB1 | {"warnings": ["it looks odd", "it is slow"]}).splitlines()
    assert [line.split(maxsplit=1) for line in lines[-2:]] == [["warning", "it looks odd"], ["warning", "it is slow"]]


def test_json_is_one_line_that_reads_back() -> None:
    text = render.as_json([WEB1])
    assert "\n" not in text and json.loads(text) == [WEB1]


def test_persistent_grants_are_called_that() -> None:
    assert render.grants({**WEB1, "features": {"persistent": True}}) == "persistent"


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (0.000012, "0.0000"), (0.01234, "0.0123"), (0.3692, "0.369"), (1.234, "1.23"), (12.34, "12.3"),
    (123.4, "123"), (1234.5, "1234")])
def test_a_figure_has_three_significant_digits(value: float, text: str) -> None:
    assert render.significant(value) == text


@pytest.mark.parametrize(("nanoseconds", "text"), [
    (None, "-"), (812, "812 ns"), (31_200, "31.2 us"), (4_210_000, "4.21 ms"), (1_200_000_000, "1.20 s")])
def test_a_latency_has_the_unit_that_fits(nanoseconds: float | None, text: str) -> None:
    assert render.latency(nanoseconds) == text


@pytest.mark.parametrize(("value", "text"), [(812, "812"), (9999, "9999"), (38_100, "38.1k"), (1_200_000, "1.20M")])
def test_a_rate_is_short(value: float, text: str) -> None:
    assert render.rate(value) == text
