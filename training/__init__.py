"""The training system; runs from a checkout: `accelerate launch training/train.py RECIPE`."""
