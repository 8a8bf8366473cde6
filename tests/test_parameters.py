"""Parameters of the control socket are what they are said to be, or refused by name."""
import pytest

from xenvbd import parameters
from xenvbd.errors import PropertyError


@pytest.mark.parametrize("verb", parameters.KNOWN)
def test_a_parameter_that_a_verb_does_not_have_is_refused_with_those_it_has(verb: str) -> None:
    parameters.refuse_unknown(verb, dict.fromkeys(parameters.KNOWN[verb]))
    with pytest.raises(PropertyError, match=f"{verb} does not know disc, forse: expected"):
        parameters.refuse_unknown(verb, {"forse": True, "disc": "web1:xvda"})


@pytest.mark.parametrize(("name", "value", "words"), [
    ("mode", 1, "expected a text"), ("mode", None, "expected a text"), ("barrier", 1, "expected true or false"),
    ("barrier", None, "expected true or false"), ("max-queues", True, "expected a whole number"),
    ("max-queues", None, "expected a whole number"), ("direct", 0, "expected true or false or null"),
    ("logical-block-size", 1.5, "expected a whole number"), ("trusted", "no", "expected true or false")])
def test_a_property_of_the_wrong_type_is_refused(name: str, value: object, words: str) -> None:
    with pytest.raises(PropertyError, match=f"{name} .*: {words}"):
        parameters.properties({name: value})


def test_properties_are_taken_by_field_and_sizes_as_texts_too() -> None:
    asked = {"logical-block-size": "4K", "direct": None, "barrier": True, "domain": "web1"}
    assert parameters.properties(asked) == {"logical_block_size": 4096, "direct": None, "barrier": True}


def test_a_flag_is_true_or_false_and_nothing_else() -> None:
    assert parameters.flag({}, "wait", True) and not parameters.flag({"force": False}, "force")
    with pytest.raises(PropertyError, match="force 'no': expected true or false"):
        parameters.flag({"force": "no"}, "force")


@pytest.mark.parametrize(("value", "seconds"), [(None, 30.0), (2, 2.0), ("50ms", 0.05), (0, 0.0)])
def test_a_time_out_is_seconds_or_a_text(value: object, seconds: float) -> None:
    assert parameters.seconds_of({"timeout": value}, 30.0) == seconds


@pytest.mark.parametrize("value", [-1, 1e9, [], "soon", {}])
def test_any_other_time_out_is_refused(value: object) -> None:
    with pytest.raises(PropertyError):
        parameters.seconds_of({"timeout": value}, 30.0)
