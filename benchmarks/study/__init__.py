"""The experiments of `cifar.py`: from its flags to units of work, each done once, recorded, and shared by processes.

A study is one folder with one configuration. What it has measured is read by `report`, which nothing here knows.
"""
