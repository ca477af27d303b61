"""What an experiment works on: data sets as arrays, and the paper's networks with their transforms.

Nothing here knows flags, records or what is measured.
"""
