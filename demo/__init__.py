"""A page where a person types a text, a choice or a dialogue and sees what a model says of it.

In    a model folder.
Out   a web page on this machine, in Korean and English.
Run   python -m demo --model outputs/main/final
"""
