"""Versions of data, for people: which commit changed what (`log`), and how two commits' data differ (`diff`).

Git says which versions there are, DVC's lists which files of a folder differ; only those are opened.
"""
