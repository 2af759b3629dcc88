"""Which records can be given actions that their source did not name: by a language model, or from a like case.

In    a record.
Out   whether actions have a place in it, and whether they may be put there.
Run   `python -c "from preprocessing.alternatives import *; print(_OTHER_FORMS, _OF_THE_DEED)"`
"""

from preprocessing.records import Record

_OTHER_FORMS = ("turns", "worse", "text_pair")
"""What is encoded in place of actions, or would be lost beside them (preprocessing/encode.py)."""
_OF_THE_DEED = ("circumstances", "acceptability", "regret")
"""What was said of the deed in the text would become a label of the deed that the actions name."""


def can_hold_actions(record: Record) -> bool:
    return all(getattr(record, name) is None for name in _OTHER_FORMS)


def may_be_given_actions(record: Record) -> bool:
    """It has none, has a place for them, and nothing in it would come to mean something else."""
    lacks = record.actions is None and all(getattr(record, name) is None for name in _OF_THE_DEED)
    return lacks and can_hold_actions(record)
