from __future__ import annotations

import copy
import json

import pytest
from peft import PeftType
from peft.utils import register_peft_method

from autopeft.workers.modules import MethodConfig, MethodTuner, Part, add_peft_type, register_method


@pytest.fixture(scope="module")
def member() -> PeftType:
    return add_peft_type("MODULES_TEST_TYPE")


def test_new_type_is_a_member_like_the_others(member: PeftType) -> None:
    assert isinstance(member, PeftType)
    assert member.name == member.value == "MODULES_TEST_TYPE"
    assert PeftType("MODULES_TEST_TYPE") is PeftType["MODULES_TEST_TYPE"] is member
    assert PeftType.MODULES_TEST_TYPE is member
    assert member in PeftType
    assert member in list(PeftType)
    assert len(PeftType) == len(list(PeftType))


def test_new_type_is_its_name_to_json_dictionaries_and_copies(member: PeftType) -> None:
    assert json.dumps({"peft_type": member}) == '{"peft_type": "MODULES_TEST_TYPE"}'
    assert {member: 1}["MODULES_TEST_TYPE"] == 1
    assert copy.deepcopy(member) is member


def test_types_of_peft_stay_what_they_are(member: PeftType) -> None:
    assert PeftType("LORA") is PeftType.LORA
    assert add_peft_type("LORA") is PeftType.LORA
    assert add_peft_type("MODULES_TEST_TYPE") is member
    assert [name for name in PeftType.__members__ if name == "LORA"] == ["LORA"]


@pytest.mark.parametrize("name", ["lower", "WITH SPACE", "", "A-B"])
def test_name_that_is_no_identifier_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="upper-case identifier"):
        add_peft_type(name)


def test_a_method_of_peft_cannot_be_replaced() -> None:
    class Config(MethodConfig):
        pass

    with pytest.raises(KeyError, match="already PEFT method called 'lora'"):
        register_method("lora", Config, Part)


def test_peft_refuses_a_name_that_was_not_added() -> None:
    with pytest.raises(ValueError, match="Unknown PEFT type NEVER_ADDED"):
        register_peft_method(name="never_added", config_cls=MethodConfig, model_cls=MethodTuner)
