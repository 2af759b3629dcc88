"""Real text in, records with nullable labels out: readers, overlap checks, hold-outs and encoding.

In    public files in their original form (docs/data.md) and a tokenizer.
Out   `Record` objects and Arrow datasets that `training/` feeds to the model; nothing here imports torch or training.
Run   `python -m preprocessing.readers --help`
"""
