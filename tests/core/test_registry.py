import pytest

from core.errors import InputError
from core.registry import Registry


def test_unknown_name_lists_the_known_ones() -> None:
    fruits: Registry[int] = Registry("fruit")
    fruits.register("apple")(1)
    fruits.register("pear")(2)
    assert fruits["pear"] == fruits.get("pear") == 2
    assert list(fruits) == ["apple", "pear"]
    assert "plum" not in fruits
    with pytest.raises(InputError, match="unknown fruit 'plum'; known: apple, pear"):
        fruits["plum"]


def test_a_name_is_registered_once() -> None:
    fruits: Registry[int] = Registry("fruit")
    fruits.register("apple")(1)
    with pytest.raises(ValueError, match="twice"):
        fruits.register("apple")(2)
