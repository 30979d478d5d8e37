"""Versions of data, for people: which commit changed what (`log`), how two commits' data differ (`diff`), and whether a
commit still gives what it recorded (`rebuild`).

Git says which versions there are, DVC's lists which files of a folder differ; only those are opened.
"""
