"""The one place where PEFT learns the names of methods that are not its own.

``peft.PeftType`` is a string enum that PEFT looks types up in when it saves, loads and injects,
and ``register_peft_method`` refuses a name that the enum lacks. Python's enums are closed, so a
member is added as the standard library's own enum machinery does it: made by ``str.__new__``,
then entered under its name and its value. Members that exist stay what they are.
"""

from __future__ import annotations

from typing import Any

from peft.utils import PeftType


def add_peft_type(name: str) -> Any:
    """Return the member of ``peft.PeftType`` called ``name``; add it where there is none.

    The value equals the name, as for every type of PEFT's own. Iteration, look-up by value and
    by name, ``in``, JSON, copies and pickles treat it as they treat the others.

    Args:
        name: Upper-case name, e.g. ``AUTOPEFT_SSF``.

    Raises:
        ValueError: it is no upper-case identifier, or an attribute of the enum.
    """
    if not name.isidentifier() or not name.isupper():
        raise ValueError(f"expected an upper-case identifier as the name of a type, got {name!r}")
    if name in PeftType.__members__:
        return PeftType[name]
    if hasattr(PeftType, name):
        raise ValueError(f"{name!r} is an attribute of peft.PeftType, choose another name")
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType._member_names_)
    type.__setattr__(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    return member
