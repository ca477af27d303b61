"""What work costs, beside the plain way to do it: the measurements of `speed.py`, and the tables of their records.

What is compared takes turns on the machine, and counts as a ratio.
"""
