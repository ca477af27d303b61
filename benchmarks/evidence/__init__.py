"""One file for each claim of the documents that no study of `cifar.py` shows: each makes a record of its own."""
